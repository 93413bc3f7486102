"""From the sampling fields of any protocol to the one form that workers know."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from app.errors import InvalidInput
from engines.protocol import Sampling

#: Numbers of `Sampling`: name -> (type, lowest, highest) that is meant; outside it is a 400, not a surprise.
_RANGES: dict[str, tuple[type, float, float]] = {
    "temperature": (float, 0, 5),
    "top_p": (float, 0, 1),
    "top_k": (int, -1, 1 << 20),
    "min_p": (float, 0, 1),
    "seed": (int, -(1 << 63), (1 << 64) - 1),
    "repeat_penalty": (float, 0.1, 10),
    "presence_penalty": (float, -2, 2),
    "frequency_penalty": (float, -2, 2),
    "repeat_last_n": (int, -1, 1 << 20),
    "typical_p": (float, 0, 1),
    "top_n_sigma": (float, -1, 100),
    "xtc_probability": (float, 0, 1),
    "xtc_threshold": (float, 0, 1),
    "dynatemp_range": (float, 0, 5),
    "dynatemp_exponent": (float, 0, 100),
    "mirostat": (int, 0, 2),
    "mirostat_tau": (float, 0, 100),
    "mirostat_eta": (float, 0, 10),
    "dry_multiplier": (float, 0, 100),
    "dry_base": (float, 0, 100),
    "dry_allowed_length": (int, 0, 1 << 20),
    "dry_penalty_last_n": (int, -1, 1 << 20),
}

#: Other servers' names for the same thing. The name on the left wins where both are given.
_ALIASES = {
    "repeat_penalty": ("repetition_penalty",),
    "repeat_last_n": ("penalty_last_n",),
    "typical_p": ("typ_p", "typical"),
    "xtc_probability": ("xtc_prob",),
    "mirostat": ("mirostat_mode",),
}

#: llama.cpp's names of its samplers, and of the letters that stand for them; and further spellings.
_SAMPLERS = {
    "d": "dry",
    "k": "top_k",
    "y": "typ_p",
    "p": "top_p",
    "s": "top_n_sigma",
    "m": "min_p",
    "t": "temperature",
    "x": "xtc",
    "e": "penalties",
}
_SPELLINGS = {name.replace("_", ""): name for name in _SAMPLERS.values()} | {
    "nucleus": "top_p",
    "temp": "temperature",
    "typ": "typ_p",
    "typicalp": "typ_p",
    "typical": "typ_p",
}

#: A bias of this much bans a token in OpenAI's protocol.
_BAN = -100.0
_MOST_BREAKERS = 64
_MOST_STOPS = 64
_DEFAULTS = Sampling()


def sampling(given: Mapping[str, Any], where: str = "", defaults: Sampling | None = None) -> Sampling:
    """The sampling that the fields in ``given`` ask for; a field that is absent or None keeps its default (that of
    ``defaults``), and what is no sampling field is passed over.

    ``given`` are the names of `Sampling` and what OpenAI, vLLM, llama-server and Ollama call the same. ``seed`` -1 is
    no seed, ``top_k`` -1 is off. Raises `InvalidInput` that names the field, after the prefix ``where``
    (``options.``).
    """
    values: dict[str, Any] = {}
    for name, (kind, low, high) in _RANGES.items():
        value, called = given.get(name), name
        if value is None:
            for alias in _ALIASES.get(name, ()):
                if (value := given.get(alias)) is not None:
                    called = alias
                    break
            else:
                continue
        values[name] = number(value, where + called, kind, low, high)
    if values.get("seed") == -1:
        del values["seed"]
    if values.get("top_k") == -1:
        values["top_k"] = 0
    if values.get("dry_base", 1.0) < 1:
        del values["dry_base"]  # as llama-server: below 1 it means nothing
    if (bias := given.get("logit_bias")) is not None:
        values["logit_bias"] = _logit_bias(bias, f"{where}logit_bias")
    if (breakers := given.get("dry_sequence_breakers")) is not None:
        values["dry_sequence_breakers"] = _breakers(breakers, f"{where}dry_sequence_breakers")
    if (samplers := given.get("samplers")) is not None:
        values["samplers"] = _samplers(samplers, f"{where}samplers")
    return msgspec.structs.replace(defaults or _DEFAULTS, **values) if values else defaults or _DEFAULTS


def number(value: Any, field: str, kind: type, low: float, high: float) -> Any:
    """``value`` as ``kind`` (``int`` or ``float``). Raises `InvalidInput` where it is no such number, or outside of
    ``low`` to ``high``."""
    right = isinstance(value, (int, float)) and not isinstance(value, bool)
    if right and kind is int and isinstance(value, float):
        right = value.is_integer()
    if not right:
        expected = "a whole number" if kind is int else "a number"
        raise InvalidInput(f"{field} must be {expected}, not {_shown(value)}", field=field)
    if not low <= value <= high:
        raise InvalidInput(f"{field} must be between {low} and {high}, not {value}", field=field)
    return kind(value)


def seeds(sampling: Sampling, count: int) -> list[Sampling]:
    """One for each of ``count`` answers to the same prompt: the seed, and those that follow it."""
    if sampling.seed is None:
        return [sampling] * count
    return [msgspec.structs.replace(sampling, seed=_after(sampling.seed, i)) for i in range(count)]


def _after(seed: int, steps: int) -> int:
    most = int(_RANGES["seed"][2])
    return seed + steps if seed + steps <= most else seed + steps - most - 1


def stops(given: str | Sequence[str] | None, field: str = "stop") -> list[str]:
    """The stop strings, without empty ones. Raises `InvalidInput`."""
    texts = [given] if isinstance(given, str) else list(given or [])
    if not all(isinstance(text, str) for text in texts) or len(texts) > _MOST_STOPS:
        raise InvalidInput(f"{field} must be a text, or a list of at most {_MOST_STOPS} texts", field=field)
    return [text for text in texts if text]


def _logit_bias(given: Any, field: str) -> list[tuple[int, float]]:
    """OpenAI's ``{"token": bias}``, or llama-server's ``[[token, bias or false], …]``."""
    pairs: list[Any]
    if isinstance(given, Mapping):
        pairs = [(key, value, f"{field}.{key}") for key, value in given.items()]
    elif isinstance(given, list) and all(isinstance(entry, list) and len(entry) == 2 for entry in given):
        pairs = [(entry[0], entry[1], f"{field}[{index}]") for index, entry in enumerate(given)]
    else:
        raise InvalidInput(f"{field} must map tokens to biases, not be {_shown(given)}", field=field)
    biases = []
    for key, value, name in pairs:
        token = int(key) if isinstance(key, str) and key.isdecimal() and len(key) <= 10 else key
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < 1 << 31:
            raise InvalidInput(f"{name}: expected the number of a token, not {_shown(key)}", field=name)
        bias = _BAN if value is False else number(value, name, float, -100, 100)
        biases.append((token, -math.inf if bias == _BAN else bias))
    return biases


def _breakers(given: Any, field: str) -> tuple[str, ...]:
    """A list of texts, or such a list as JSON text."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            given = [given]
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given) or len(given) > _MOST_BREAKERS:
        raise InvalidInput(f"{field} must be a list of at most {_MOST_BREAKERS} texts", field=field)
    return tuple(given)


def _samplers(given: Any, field: str) -> list[str]:
    """Names of samplers, or a text of their letters, in the order that they run."""
    names = []
    if not isinstance(given, (str, list)):
        raise InvalidInput(f"{field} must be a list of names, not {_shown(given)}", field=field)
    for index, entry in enumerate(given):
        spelled = entry.lower().replace("-", "").replace("_", "") if isinstance(entry, str) else ""
        name = _SAMPLERS.get(entry) if isinstance(given, str) else _SPELLINGS.get(spelled)
        if name is None:
            raise InvalidInput(
                f"{field}[{index}]: there is no sampler {_shown(entry)}",
                hint=f"there are {', '.join(_SAMPLERS.values())}",
                field=f"{field}[{index}]",
            )
        names.append(name)
    return names


def _shown(value: Any) -> str:
    return repr(value)[:80]

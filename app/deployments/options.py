"""The settings of one deployment: which there are, for which engines, and what they may be."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import InvalidInput

LANGUAGE = ("llamacpp", "echo")
TENSOR = ("onnxruntime", "echo")
#: As llama.cpp calls the element types of its key-value memory.
CACHE_TYPES = ("f16", "f32", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl")
_UNQUANTISED = ("f16", "f32", "bf16")
_WORDS = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
#: Names that other programs give the same setting.
ALIASES = {"n_ctx": "context_tokens"}


@dataclass(frozen=True)
class Number:
    """``engines`` empty: any. ``default`` `None`: the engine chooses."""

    default: int | float | None
    least: float
    most: float
    meaning: str
    engines: tuple[str, ...] = ()

    @property
    def expects(self) -> str:
        return f"a number from {self.least:g} to {self.most:g}"

    def read(self, value: Any) -> int | float:
        """Every kind of option has this: the value as the engine takes it. Raises `ValueError`."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.least <= value <= self.most:
            raise ValueError
        return int(value) if float(value).is_integer() else value


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    default: str | None
    choices: tuple[str, ...]
    meaning: str
    engines: tuple[str, ...] = LANGUAGE

    @property
    def expects(self) -> str:
        return f"one of {', '.join(self.choices)}"

    def read(self, value: Any) -> str:
        if isinstance(value, bool):  # `--set flash_attention=true`, and YAML's on and off
            value = "on" if value else "off"
        if not isinstance(value, str) or value.lower() not in self.choices:
            raise ValueError
        return value.lower()


@dataclass(frozen=True)
class Flag:
    default: bool | None
    meaning: str
    engines: tuple[str, ...] = LANGUAGE
    expects = "true or false"

    def read(self, value: Any) -> bool:
        value = _WORDS.get(value.lower(), value) if isinstance(value, str) else value
        if not isinstance(value, bool):
            raise ValueError
        return value


@dataclass(frozen=True)
class Shares:
    """Proportions, as a list or as a text with commas."""

    default: None
    meaning: str
    engines: tuple[str, ...] = LANGUAGE
    expects = "numbers that are not negative, like 3,1"

    def read(self, value: Any) -> list[float]:
        if isinstance(value, str):
            value = [float(part) for part in value.split(",")]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = [value]
        if not isinstance(value, list) or any(
            isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < float("inf")
            for share in value
        ):
            raise ValueError
        if sum(value) <= 0:
            raise ValueError
        return [float(share) for share in value]


@dataclass(frozen=True)
class Numbers:
    """Whole numbers, as a list or as a text with commas."""

    least: int
    most: int
    meaning: str
    engines: tuple[str, ...] = ()
    default = None

    @property
    def expects(self) -> str:
        return f"whole numbers from {self.least} to {self.most}, like 4,8"

    def read(self, value: Any) -> list[int]:
        if isinstance(value, str):
            value = [int(part) for part in value.split(",")]
        if isinstance(value, int):
            value = [value]
        if not isinstance(value, list) or any(
            isinstance(number, bool) or not isinstance(number, int) or not self.least <= number <= self.most
            for number in value
        ):
            raise ValueError
        return sorted(set(value))


Option = Number | Numbers | Choice | Flag | Shares

OPTIONS: dict[str, Option] = {
    "max_batch_size": Number(32, 1, 4096, "Rows of a batch at most.", TENSOR),
    "max_queue_delay_us": Number(
        None,
        0,
        10_000_000,
        "How long a free replica waits for more rows; by default learned from what a batch takes. 0: never.",
        TENSOR,
    ),
    "preferred_batch_sizes": Numbers(1, 4096, "Rows at which a batch leaves without waiting for more.", TENSOR),
    "priority_levels": Number(1, 1, 64, "Levels that a request may choose from; 1 is the most urgent.", TENSOR),
    "default_priority_level": Number(
        None, 1, 64, "Of a request that names none; by default the middle one.", TENSOR
    ),
    "preserve_order": Flag(False, "Answer in the order of arrival, also with several replicas.", TENSOR),
    "response_cache": Flag(False, "Keep answers, and give them again to an equal request.", ()),
    "response_cache_mb": Number(64, 1, 1 << 20, "Answers that are kept, in MiB.", ()),
    "response_cache_ttl_s": Number(0, 0, 1 << 31, "How long an answer is kept; 0: until it has to go.", ()),
    "sequence_idle_s": Number(
        60, 0.001, 86_400, "How long the state of a sequence is kept after its last request.", TENSOR
    ),
    "sequence_limit": Number(4096, 1, 1_000_000, "Sequences whose state is kept at once.", TENSOR),
    "queue_limit": Number(None, 1, 1_000_000, "Requests that may wait; the installation's queue_limit by default."),
    "request_timeout_s": Number(None, 0.001, 86_400, "Longest time to wait and run; the installation's by default."),
    "linger_us": Number(
        500,
        0,
        100_000,
        "How long a replica stays awake for the next request after a single one.",
        TENSOR,
    ),
    "threads": Number(None, 1, 1024, "CPU threads of one replica; by default one a physical core."),
    "context_tokens": Number(None, 32, 1 << 22, "Longest prompt plus answer of one sequence.", LANGUAGE),
    "sequences": Number(8, 1, 256, "Sequences that are decoded at once.", LANGUAGE),
    "kv_tokens": Number(
        None, 32, 1 << 26, "Cells of key-value memory; by default each sequence can fill its context.", LANGUAGE
    ),
    "step_tokens": Number(None, 2, 1 << 16, "Tokens of a step while answers are being written.", LANGUAGE),
    "batch_tokens": Number(None, 2, 1 << 16, "Tokens of a step while there are only prompts to read.", LANGUAGE),
    "gpu_layers": Number(-1, -1, 1 << 16, "Layers of the model that a GPU holds; -1 is all of them.", LANGUAGE),
    "main_gpu": Number(-1, -1, 63, "The GPU for what is not split; -1 is the device that was decided on.", LANGUAGE),
    "draft_tokens": Number(8, 1, 64, "Tokens that are guessed ahead at most, with speculative.", LANGUAGE),
    "prefix_cache_mb": Number(
        1024, 0, 1 << 24, "Host memory in MiB for computed prefixes that have left the key-value memory.", LANGUAGE
    ),
    "prefix_disk_mb": Number(
        1024, 0, 1 << 24, "Disk in MiB for prefixes that survive the end of a worker; 0 keeps nothing.", LANGUAGE
    ),
    "cache_type_k": Choice("f16", CACHE_TYPES, "Element type of the keys in key-value memory."),
    "cache_type_v": Choice("f16", CACHE_TYPES, "Element type of the values; quantised ones need flash attention."),
    "flash_attention": Choice("auto", ("auto", "on", "off"), "Attention without its matrix in memory."),
    "split_mode": Choice("none", ("none", "layer", "row"), "How a model is split over several GPUs."),
    "tensor_split": Shares(None, "Share of the model for each GPU; by default by their free memory."),
    "speculative": Choice(
        "off",
        ("off", "ngram", "draft"),
        "Guess tokens ahead: from the text so far, or with the draft model (the default where there is one).",
    ),
    "pooling": Choice(None, ("mean", "cls", "last", "rank"), "How token embeddings become one; by default the file's."),
    "swa_full": Flag(True, "Keep all of the context for sliding-window layers, so that any prefix can be reused."),
}


def check(settings: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """The settings as the engine takes them, or `InvalidInput` that names the key. The echo engine takes any (it is a
    test's)."""
    checked: dict[str, Any] = {}
    for given, value in settings.items():
        key = ALIASES.get(given, given)
        option = OPTIONS.get(key)
        where = f"settings.{given}"
        if key != given and key in settings:
            raise InvalidInput(f"{given} and {key} are the same setting", hint="give one of them", field=where)
        if option is None:
            if engine == "echo":
                checked[key] = value
                continue
            raise InvalidInput(f"there is no setting {given}", hint=f"there are: {', '.join(OPTIONS)}", field=where)
        if option.engines and engine not in option.engines:
            raise InvalidInput(f"{given} is not a setting of {engine}", hint="leave it out", field=where)
        try:
            checked[key] = option.read(value)
        except ValueError:
            raise InvalidInput(f"{given} must be {option.expects}, not {value!r}", field=where) from None
    if checked.get("flash_attention") == "off" and checked.get("cache_type_v", "f16") not in _UNQUANTISED:
        raise InvalidInput(
            "values are quantised only with flash attention",
            hint="leave flash_attention at auto, or cache_type_v at f16",
            field="settings.cache_type_v",
        )
    return checked


def check_replicas(settings: Mapping[str, Any], replicas: int, most: int) -> tuple[dict[str, Any], int]:
    """``settings`` without ``instances``, which other servers have for replicas, and how many there are. Raises
    `InvalidInput`."""
    rest = dict(settings)
    field, value = "replicas", replicas
    if "instances" in rest:
        field, value = "settings.instances", rest.pop("instances")
        if replicas not in (1, value):
            raise InvalidInput("instances and replicas are the same", hint="give one of them", field=field)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidInput(f"{field} must be from 1 to {most}, not {value!r}", field=field)
    return rest, value

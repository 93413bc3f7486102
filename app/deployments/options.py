"""The settings of one deployment: which there are, for which engines, and their bounds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import InvalidInput


@dataclass(frozen=True)
class Option:
    """``engines`` empty: any. ``default`` `None`: the engine chooses."""

    default: int | float | None
    least: float
    most: float
    meaning: str
    engines: tuple[str, ...] = ()


OPTIONS: dict[str, Option] = {
    "max_batch_size": Option(32, 1, 4096, "Rows of a batch at most (tensor models whose first axis is the batch)."),
    "max_queue_delay_us": Option(
        0,
        0,
        10_000_000,
        "How long a free replica waits for more rows. 0: a batch leaves as soon as a replica is free.",
    ),
    "queue_limit": Option(None, 1, 1_000_000, "Requests that may wait; the installation's queue_limit by default."),
    "request_timeout_s": Option(None, 0.001, 86_400, "Longest time to wait and run; the installation's by default."),
    "linger_us": Option(
        500,
        0,
        100_000,
        "How long a replica stays awake for the next request after a single one.",
        ("onnxruntime", "echo"),
    ),
    "threads": Option(None, 1, 1024, "CPU threads of one replica; by default one a physical core."),
    "context_tokens": Option(None, 32, 1 << 22, "Longest prompt plus answer of one sequence.", ("llamacpp", "echo")),
    "sequences": Option(8, 1, 256, "Sequences that are decoded at once.", ("llamacpp", "echo")),
    "kv_tokens": Option(
        None, 32, 1 << 26, "Cells of key-value memory; by default each sequence can fill its context.", ("llamacpp",)
    ),
    "step_tokens": Option(None, 2, 1 << 16, "Tokens of a step while answers are being written.", ("llamacpp",)),
    "batch_tokens": Option(None, 2, 1 << 16, "Tokens of a step while there are only prompts to read.", ("llamacpp",)),
}


def check(settings: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """The settings as they are, or `InvalidInput` that names the key. The echo engine takes any (it is a test's)."""
    checked: dict[str, Any] = {}
    for key, value in settings.items():
        option = OPTIONS.get(key)
        where = f"settings.{key}"
        if option is None:
            if engine == "echo":
                checked[key] = value
                continue
            raise InvalidInput(f"there is no setting {key}", hint=f"there are: {', '.join(OPTIONS)}", field=where)
        if option.engines and engine not in option.engines:
            raise InvalidInput(f"{key} is not a setting of {engine}", hint="leave it out", field=where)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not option.least <= value <= option.most:
            raise InvalidInput(
                f"{key} must be a number from {option.least:g} to {option.most:g}, not {value!r}", field=where
            )
        checked[key] = int(value) if float(value).is_integer() else value
    return checked

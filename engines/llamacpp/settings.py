"""The settings of a llama.cpp deployment, checked once. Pure."""

from dataclasses import dataclass, fields
from typing import Any

from engines.engine import EngineError

DEFAULT_CONTEXT_TOKENS = 4096


@dataclass(frozen=True)
class Settings:
    """Counts; 0 means the default that `resolve` fills in."""

    sequences: int = 8
    """Decoded at once."""
    context_tokens: int = 0
    """Longest prompt plus answer of one sequence; by default 4,096 or what the model was trained on, if less."""
    kv_tokens: int = 0
    """Cells of key-value memory for all sequences; by default each can fill its context."""
    queue_limit: int = 256
    """Sequences that may wait."""
    step_tokens: int = 0
    """Tokens a step while answers are being written: smaller keeps them flowing, larger reads prompts faster."""
    batch_tokens: int = 0
    """Tokens a step while there are only prompts to read."""


def read_settings(values: dict[str, Any]) -> tuple[Settings, list[str]]:
    """The settings, and the names that this engine does not have. Raises `EngineError` (``bad_setting``)."""
    known = {field.name for field in fields(Settings)}
    chosen = {}
    for name in known & values.keys():
        value = values[name]
        if isinstance(value, str) and value.isdecimal():  # `--set sequences=4` arrives as text
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise EngineError("bad_setting", f"{name} must be a whole number, not {value!r}")
        chosen[name] = value
    settings = Settings(**chosen)
    for name in ("sequences", "queue_limit"):
        if getattr(settings, name) < 1:
            raise EngineError("bad_setting", f"{name} must be at least 1")
    return settings, sorted(values.keys() - known)


def resolve(settings: Settings, trained_context: int, on_gpu: bool) -> Settings:
    """Every 0 replaced for a model trained on ``trained_context`` tokens. Raises `EngineError`."""
    trained = trained_context or DEFAULT_CONTEXT_TOKENS
    context = min(settings.context_tokens or DEFAULT_CONTEXT_TOKENS, trained)
    kv_tokens = settings.kv_tokens or settings.sequences * context
    if kv_tokens < context:
        raise EngineError("bad_setting", f"kv_tokens {kv_tokens} cannot hold one context of {context} tokens")
    # On 2 cores, 8 streams of 127-token prompts gave 81 tokens/s with steps of 128 beside running answers, 108 with
    # 256, 99 with 384; 512 where nothing runs (docs/performance.md). Every running sequence takes one token of a
    # step, and a prompt must always get at least one.
    step = max(settings.step_tokens or (512 if on_gpu else 256), settings.sequences + 1)
    batch = max(settings.batch_tokens or (2048 if on_gpu else 512), step)
    return Settings(settings.sequences, context, kv_tokens, settings.queue_limit, step, batch)

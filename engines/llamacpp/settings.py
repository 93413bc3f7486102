"""The settings of a llama.cpp deployment, checked once. Pure."""

from dataclasses import dataclass, fields, replace
from typing import Any

from engines.engine import EngineError

#: The context where nobody asked for one: enough for a document and a conversation, if the model and the memory allow.
DEFAULT_CONTEXT_TOKENS = 4096
LEAST_CONTEXT_TOKENS = 512
#: Share of the free memory that the key-value cells may take by default.
MEMORY_SHARE = 0.5

CACHE_TYPES = ("f16", "f32", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl")
CHOICES = {
    "cache_type_k": CACHE_TYPES,
    "cache_type_v": CACHE_TYPES,
    "flash_attention": ("auto", "on", "off"),
    "split_mode": ("none", "layer", "row"),
    "speculative": ("off", "ngram", "draft"),
    "pooling": ("", "none", "mean", "cls", "last", "rank"),
}


@dataclass(frozen=True)
class Settings:
    """Counts; 0 means the default that `resolve` fills in."""

    sequences: int = 8
    """Decoded at once."""
    context_tokens: int = 0
    """Longest prompt plus answer of one sequence; by default 4,096, or what the model was trained on or the memory
    can hold, if less."""
    kv_tokens: int = 0
    """Cells of key-value memory for all sequences; by default each can fill its context."""
    queue_limit: int = 256
    """Sequences that may wait."""
    step_tokens: int = 0
    """Tokens a step while answers are being written: smaller keeps them flowing, larger reads prompts faster."""
    batch_tokens: int = 0
    """Tokens a step while there are only prompts to read."""
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attention: str = "auto"
    gpu_layers: int = -1
    """Layers on the GPU; -1 all. Without effect on the CPU."""
    split_mode: str = "none"
    """How a model is split over several GPUs."""
    tensor_split: tuple[float, ...] = ()
    """Share of each GPU, in any unit."""
    main_gpu: int = -1
    """-1: the one that was decided."""
    swa_full: bool = True
    """Keep all of a sliding-window model's cells: costs memory, and makes a prefix reusable anywhere."""
    speculative: str = "off"
    draft_tokens: int = 8
    """Tokens guessed ahead at most."""
    prefix_cache_mb: int = 1024
    """Host memory for computed prefixes that lost their slot; 0: none."""
    prefix_disk_mb: int = 1024
    """What of it is kept on disk between two loads; 0: nothing."""
    pooling: str = ""
    """How token embeddings become one; by default what the file says."""

    @property
    def streams(self) -> bool:
        """Whether each sequence has cells of its own: attention then reads only those. Else all share one pool, which
        serves long contexts from less memory."""
        return self.kv_tokens == self.sequences * self.context_tokens


def read_settings(values: dict[str, Any]) -> tuple[Settings, list[str]]:
    """The settings, and the names that this engine does not have. Raises `EngineError` (``bad_setting``)."""
    known = {field.name for field in fields(Settings)}
    chosen = {name: _value(name, values[name]) for name in known & values.keys()}
    settings = Settings(**chosen)
    for name in ("sequences", "queue_limit"):
        if getattr(settings, name) < 1:
            raise EngineError("bad_setting", f"{name} must be at least 1")
    return settings, sorted(values.keys() - known)


def _value(name: str, value: Any) -> Any:
    if choices := CHOICES.get(name):
        if value not in choices:
            raise EngineError("bad_setting", f"{name} must be one of {', '.join(filter(None, choices))}, not {value!r}")
        return value
    if name == "swa_full":
        if not isinstance(value, bool):
            raise EngineError("bad_setting", f"{name} must be true or false, not {value!r}")
        return value
    if name == "tensor_split":
        parts = value.split(",") if isinstance(value, str) else value
        try:
            shares = tuple(float(part) for part in parts)
        except (TypeError, ValueError):
            raise EngineError("bad_setting", f"tensor_split must be numbers such as 3,1, not {value!r}") from None
        if any(share < 0 for share in shares) or (shares and not sum(shares)):
            raise EngineError("bad_setting", f"tensor_split must be shares of at least 0, not {value!r}")
        return shares
    if isinstance(value, str) and value.isdecimal():  # `--set sequences=4` arrives as text
        value = int(value)
    least = -1 if name in ("gpu_layers", "main_gpu") else 0
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise EngineError("bad_setting", f"{name} must be a whole number, not {value!r}")
    return value


def resolve(
    settings: Settings, trained_context: int, on_gpu: bool, cell_bytes: int = 0, free_bytes: int = 0
) -> Settings:
    """Every 0 replaced for a model trained on ``trained_context`` tokens, each cell of which takes ``cell_bytes`` of
    the ``free_bytes`` there are (0: unknown). What was asked for is never made smaller but by what the model was
    trained on. Raises `EngineError`."""
    trained = trained_context or DEFAULT_CONTEXT_TOKENS
    context = min(settings.context_tokens or _affordable(settings.sequences, cell_bytes, free_bytes), trained)
    kv_tokens = settings.kv_tokens or settings.sequences * context
    if kv_tokens < context:
        raise EngineError("bad_setting", f"kv_tokens {kv_tokens} cannot hold one context of {context} tokens")
    # On 2 cores, 8 streams of 127-token prompts gave 81 tokens/s with steps of 128 beside running answers, 108 with
    # 256, 99 with 384; 512 where nothing runs (docs/performance.md). Every running sequence takes one token of a
    # step, and a prompt must always get at least one.
    step = max(settings.step_tokens or (512 if on_gpu else 256), settings.sequences + 1)
    batch = max(settings.batch_tokens or (2048 if on_gpu else 512), step)
    return replace(settings, context_tokens=context, kv_tokens=kv_tokens, step_tokens=step, batch_tokens=batch)


def _affordable(sequences: int, cell_bytes: int, free_bytes: int) -> int:
    """The default context: halved until the cells of all sequences fit into `MEMORY_SHARE` of the memory."""
    context = DEFAULT_CONTEXT_TOKENS
    while context > LEAST_CONTEXT_TOKENS and sequences * context * cell_bytes > free_bytes * MEMORY_SHARE > 0:
        context //= 2
    return context

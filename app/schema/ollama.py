"""Ollama's API, as its clients write and read it: durations in nanoseconds, streams of one JSON object a line."""

from typing import Any, Literal

import msgspec

KeepAlive = str | float | None
"""Seconds, or a duration such as ``5m``; negative is for ever, 0 is not at all."""


Options = dict[str, Any]
"""What Ollama calls the parameters of a model: ``num_ctx``, ``num_predict`` (tokens of the answer; below 1: until the
model stops or the context is full), ``stop``, and those of sampling, under llama.cpp's names. Those of the machine
(``num_gpu``, ``num_thread``, ``use_mmap``, …) belong to a deployment here and are passed over, as is ``num_keep``: no
context is ever shifted."""


class Function(msgspec.Struct, kw_only=True, omit_defaults=True):
    name: str
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)
    index: int | None = None


class ToolCall(msgspec.Struct, kw_only=True, omit_defaults=True):
    id: str = ""
    function: Function


class Message(msgspec.Struct, kw_only=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    """Base64."""
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class _Asking(msgspec.Struct, kw_only=True):
    model: str = ""
    stream: bool | None = None
    """Yes, unless it is false."""
    format: str | dict[str, Any] | None = None
    """``json``, or a JSON schema."""
    keep_alive: KeepAlive = None
    options: Options | None = None
    think: bool | str | None = None
    """Whether to reason first, or how much: ``low``, ``medium``, ``high``."""
    logprobs: bool | None = None
    top_logprobs: int | None = None


class ChatRequest(_Asking, kw_only=True):
    messages: list[Message] | None = None
    """Without any, the model is only loaded."""
    tools: list[dict[str, Any]] | None = None


class GenerateRequest(_Asking, kw_only=True):
    prompt: str | None = None
    """Without one, the model is only loaded."""
    system: str | None = None
    raw: bool | None = None
    """The prompt as it is, past the chat template."""
    images: list[str] | None = None
    context: list[int] | None = None
    """That of an earlier answer, to go on from it."""
    suffix: str | None = None
    template: str | None = None


class EmbedRequest(msgspec.Struct, kw_only=True):
    model: str = ""
    input: str | list[str] | None = None
    truncate: bool | None = None
    """Whether an input that does not fit is cut; yes, unless it is false."""
    dimensions: int | None = None
    keep_alive: KeepAlive = None
    options: Options | None = None


class EmbeddingsRequest(msgspec.Struct, kw_only=True):
    model: str = ""
    prompt: str | None = None
    keep_alive: KeepAlive = None
    options: Options | None = None


class Named(msgspec.Struct, kw_only=True):
    """``name`` is what older clients call ``model``."""

    model: str = ""
    name: str = ""


class ShowRequest(Named, kw_only=True):
    verbose: bool | None = None
    """Whether the long arrays, the vocabulary above all, are wanted."""


class PullRequest(Named, kw_only=True):
    stream: bool | None = None


# --- answers -------------------------------------------------------------------------------------------


class TopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class Logprob(msgspec.Struct, omit_defaults=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob] | None = None


class Said(msgspec.Struct, kw_only=True):
    """What a model says; each call of a tool comes whole."""

    role: str = "assistant"
    content: str = ""
    thinking: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET


class _Answer(msgspec.Struct, kw_only=True):
    """The numbers are in the last line of a stream, or in the one answer."""

    model: str
    created_at: str
    done: bool = False
    done_reason: str | msgspec.UnsetType = msgspec.UNSET
    """``stop`` or ``length``; ``load`` and ``unload`` where nothing was to be answered."""
    total_duration: int | msgspec.UnsetType = msgspec.UNSET
    load_duration: int | msgspec.UnsetType = msgspec.UNSET
    prompt_eval_count: int | msgspec.UnsetType = msgspec.UNSET
    prompt_eval_duration: int | msgspec.UnsetType = msgspec.UNSET
    eval_count: int | msgspec.UnsetType = msgspec.UNSET
    eval_duration: int | msgspec.UnsetType = msgspec.UNSET
    logprobs: list[Logprob] | msgspec.UnsetType = msgspec.UNSET


class ChatResponse(_Answer, kw_only=True):
    message: Said


class GenerateResponse(_Answer, kw_only=True):
    response: str = ""
    thinking: str | msgspec.UnsetType = msgspec.UNSET
    context: list[int] | msgspec.UnsetType = msgspec.UNSET
    """The tokens of the prompt and of the answer."""


class EmbedResponse(msgspec.Struct, kw_only=True):
    model: str
    embeddings: list[list[float]]
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0


class EmbeddingsResponse(msgspec.Struct):
    embedding: list[float]


class Details(msgspec.Struct, kw_only=True):
    parent_model: str = ""
    format: str = "gguf"
    family: str = ""
    families: list[str] = []
    parameter_size: str = ""
    """``268.10M``"""
    quantization_level: str = ""
    """``Q4_K_M``"""


class ListedModel(msgspec.Struct, kw_only=True):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    """SHA-256 of the model's file, in hexadecimal."""
    details: Details
    capabilities: list[str] = []


class ModelList(msgspec.Struct):
    models: list[ListedModel]


class RunningModel(msgspec.Struct, kw_only=True):
    name: str
    model: str
    size: int
    """Memory, in bytes."""
    digest: str
    details: Details
    expires_at: str
    size_vram: int = 0
    context_length: int = 0


class RunningList(msgspec.Struct):
    models: list[RunningModel]


class ShowResponse(msgspec.Struct, kw_only=True):
    license: str
    modelfile: str
    parameters: str
    template: str
    details: Details
    model_info: dict[str, Any]
    """The header of the file; ``ARCHITECTURE.context_length`` is what the model was trained on, ``num_ctx`` in
    ``parameters`` what is served."""
    capabilities: list[str]
    modified_at: str


class Progress(msgspec.Struct, kw_only=True, omit_defaults=True):
    status: str
    digest: str = ""
    """Of the file where it is known beforehand; else of the reference: it tells one download from another."""
    total: int = 0
    completed: int = 0


class Version(msgspec.Struct, kw_only=True):
    version: str
    """Of Ollama's API, as it is spoken here: clients compare it."""
    pilothouse: str

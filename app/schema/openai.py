"""OpenAI's chat, completions, embeddings and models, with the extensions that benchmarks and other local servers'
clients send. A field that is not here is ignored."""

from typing import Any

import msgspec

# --- asking ----------------------------------------------------------------------------------------------


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Generation(msgspec.Struct, kw_only=True):
    """What chat and completions share. A value of null is as if the field were absent."""

    model: str
    """A route, ``ROUTE:ADAPTER`` for one of its LoRA adapters."""
    max_tokens: int | None = None
    """-1: until the model stops or the context is full."""
    n_predict: int | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None
    repeat_last_n: int | None = None
    typical_p: float | None = None
    typ_p: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: list[str] | str | None = None
    samplers: list[str] | str | None = None
    logit_bias: dict[str, Any] | list[Any] | None = None
    """Token number to bias, -100 to 100; -100 bans the token."""
    response_format: dict[str, Any] | None = None
    """``{"type": "text" | "json_object" | "json_schema", …}``"""
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: dict[str, Any] | None = None
    """vLLM's: one of ``json``, ``json_object``, ``regex``, ``choice``, ``grammar``."""
    grammar: str | None = None
    """llama.cpp's GBNF."""
    json_schema: dict[str, Any] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    cache_prompt: bool | None = None
    priority: int | None = None
    """Lower is served earlier."""
    timings_per_token: bool | None = None
    """Whether the answer ends with llama-server's ``timings``."""


class CompletionRequest(_Generation, kw_only=True):
    prompt: str | list[Any]
    """A text, its tokens, or a list of texts or of lists of tokens: each gets its own choices."""
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | None = None
    best_of: int | None = None


class ChatRequest(_Generation, kw_only=True):
    messages: list[dict[str, Any]]
    """``role`` and ``content`` (a text, or parts of type ``text`` and ``image_url``), ``tool_calls``,
    ``tool_call_id``, ``reasoning_content``."""
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    """OpenAI's form before ``tools``."""
    function_call: str | dict[str, Any] | None = None
    reasoning_effort: str | None = None
    enable_thinking: bool | None = None
    reasoning_format: str | None = None
    """``none``: what the model thinks stays part of the text, where there are no tools."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Further variables of the chat template."""
    continue_final_message: bool | str | None = None
    """Continue the last message, which is the assistant's, rather than answer it."""
    add_generation_prompt: bool | None = None


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    model: str
    input: str | list[Any]
    """A text, its tokens, or a list of texts or of lists of tokens; for a tensor model of other items, those."""
    encoding_format: str | None = None
    """``float``, or ``base64`` of little-endian FP32."""
    dimensions: int | None = None
    """Keep so many of the first numbers, scaled to length 1 again (for models that were trained for it)."""


class ClassifyRequest(msgspec.Struct, kw_only=True):
    model: str
    input: Any
    """A text, or what else the model takes: ``{"image": data URL or base64}``, ``{"audio": base64}``, ``{"row": {…}}``
    or a list of numbers, ``{"text": …, "text_pair": …}``; or a list of such."""
    top_k: int | None = None
    """How many ``scores`` are answered (5)."""


class RerankRequest(msgspec.Struct, kw_only=True):
    model: str
    query: str
    documents: list[str | dict[str, Any]] | None = None
    """Texts, or objects with ``text``."""
    texts: list[str] | None = None
    """Another name of ``documents``."""
    top_n: int | None = None
    return_documents: bool | None = None


# --- answering -------------------------------------------------------------------------------------------


class PromptTokensDetails(msgspec.Struct):
    cached_tokens: int = 0


class CompletionTokensDetails(msgspec.Struct):
    reasoning_tokens: int = 0


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class Timings(msgspec.Struct):
    """llama-server's, of the first choice."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float


class CompletionLogprobs(msgspec.Struct):
    """Parallel lists, one entry for each token; ``text_offset`` counts characters of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None


class Completion(msgspec.Struct, kw_only=True):
    id: str
    object: str = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    timings: Timings | msgspec.UnsetType = msgspec.UNSET


class TopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    content: list[ChatLogprob]
    refusal: None = None


class Function(msgspec.Struct):
    name: str
    arguments: str


class ToolCall(msgspec.Struct):
    id: str
    function: Function
    type: str = "function"


class AnswerMessage(msgspec.Struct, kw_only=True):
    role: str = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET
    function_call: Function | msgspec.UnsetType = msgspec.UNSET


class ChatChoice(msgspec.Struct):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class ChatCompletion(msgspec.Struct, kw_only=True):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings | msgspec.UnsetType = msgspec.UNSET


class DeltaFunction(msgspec.Struct, omit_defaults=True):
    name: str | None = None
    arguments: str | None = None


class DeltaCall(msgspec.Struct, omit_defaults=True):
    index: int
    id: str | None = None
    type: str | None = None
    function: DeltaFunction | None = None


class Delta(msgspec.Struct, omit_defaults=True):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[DeltaCall] | None = None
    function_call: DeltaFunction | None = None


class ChunkChoice(msgspec.Struct):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class Embedding(msgspec.Struct):
    index: int
    embedding: list[float] | str
    object: str = "embedding"


class InputUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[Embedding]
    model: str
    usage: InputUsage


class ClassScore(msgspec.Struct):
    label: str
    score: float


class Classification(msgspec.Struct, kw_only=True):
    index: int
    label: str
    """The best class."""
    probs: list[float]
    """Of every class, in the model's order; where the model's steps answer with the best only, as in ``scores``."""
    num_classes: int
    scores: list[ClassScore]
    """The best first."""


class ClassificationList(msgspec.Struct, kw_only=True):
    id: str
    object: str = "list"
    created: int
    model: str
    data: list[Classification]
    usage: InputUsage


class Document(msgspec.Struct):
    text: str


class Ranked(msgspec.Struct):
    index: int
    relevance_score: float
    document: Document | msgspec.UnsetType = msgspec.UNSET


class Ranking(msgspec.Struct, kw_only=True):
    """``results`` are sorted, the best first; ``index`` is the place among the documents of the request."""

    id: str
    object: str = "list"
    model: str
    results: list[Ranked]
    usage: InputUsage


class ModelCard(msgspec.Struct, kw_only=True):
    id: str
    object: str = "model"
    created: int
    owned_by: str = "pilothouse"
    root: str = ""
    """The model in the registry."""
    parent: str | None = None
    """Of a LoRA adapter: the route that it belongs to."""
    context_length: int | msgspec.UnsetType = msgspec.UNSET
    """Tokens of prompt and answer together."""
    max_model_len: int | msgspec.UnsetType = msgspec.UNSET
    capabilities: list[str] | msgspec.UnsetType = msgspec.UNSET
    """Of a tensor model: ``classify``, ``embedding``, ``rerank``, as its declared steps allow."""


class ModelList(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[ModelCard]

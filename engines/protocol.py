"""Messages between the daemon and a worker: with `engines.card`, all that both sides of the process edge share.

A frame is ``u32 header bytes | u32 payload bytes | header | payload``, both lengths little-endian. The header
is one of the structs below in MessagePack; the payload is the raw bytes of the tensors that the header lists,
one after another, in C order (a BYTES tensor is a sequence of ``u32 length | bytes`` elements, as in Triton's
binary extension). One frame carries one batch of tensors, or one scheduler step of all token sequences, so
that the hop between the processes is paid once a batch and never once a request.

The conversation::

    worker                     daemon
      Hello(secret)      -->
                         <--   Load(engine, path, ...)
      Ready | Failed     -->
                         <--   Infer | Generate | Embed | Rank | Abort | Tokenize ...
      Inferred | Step | Embedded | Tokens | Rejected -->
                         <--   Unload
      Unloaded           -->

The daemon closing the worker's standard input is the order to exit.
"""

import struct
from typing import Any

import msgspec

from engines.card import Card

VERSION = 3
FRAME = struct.Struct("<II")
#: A frame that claims a header beyond this is not one of ours.
MAX_HEADER_BYTES = 64 << 20
#: What the length of a payload can say.
MAX_PAYLOAD_BYTES = (1 << 32) - 1


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output of a model. ``datatype`` is an Open Inference Protocol name (``FP32``, ``INT64``,
    ``BYTES``); a dimension of ``-1`` is dynamic."""

    name: str
    datatype: str
    shape: list[int]
    batch_axis: int = -1
    """Along which requests are put together. -1: none; an input without one must be equal in all of a batch (a sample
    rate), an output without one ends batching."""
    axes: list[str] = []
    """What the file calls each axis, empty where it is fixed or nameless; an equal name is an equal length. Empty where
    nothing is known."""


class Signature(msgspec.Struct, frozen=True):
    """What a tensor model takes and gives. ``batched``: requests may be put together along each tensor's
    ``batch_axis``, as a run has shown."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    batched: bool = False
    labels: list[str] = []
    """Class names in the order of the last axis of the first output; empty where the file names none."""


class LanguageModel(msgspec.Struct, frozen=True):
    """What a language model offers once it is loaded."""

    context_tokens: int
    """Longest prompt plus answer of one sequence."""
    sequences: int
    """How many sequences are decoded at once."""
    vocabulary: int
    chat_template: str
    """``gguf`` where the file carries one, ``chatml`` where it does not and ChatML stands in."""
    description: str = ""
    parameters: int = 0
    capabilities: list[str] = msgspec.field(default_factory=lambda: ["completion"])
    """Of ``completion``, ``tools``, ``thinking``, ``vision``, ``embedding``, ``rerank``. Without ``completion`` the
    model writes no text: `Generate` is refused."""
    architecture: str = ""
    """The family as the file names it: ``gemma3``, ``qwen3``, ``bert``."""
    quantization: str = ""
    """As the file names it: ``Q4_K_M``, ``F16``."""
    trained_context: int = 0
    """Tokens that the model was trained on; `context_tokens` is what is served."""
    embedding_length: int = 0
    """Width of the embeddings."""
    pooling: str = ""
    """How token embeddings become one: ``mean``, ``cls``, ``last``, ``rank``."""
    adapters: list[str] = []
    """Names of the LoRA adapters that a request may choose."""
    template: str = ""
    """The text of the chat template that is used."""


class TensorHeader(msgspec.Struct, array_like=True, frozen=True):
    """One tensor of a payload, in payload order."""

    name: str
    datatype: str
    shape: list[int]
    size_bytes: int


class Sampling(msgspec.Struct, omit_defaults=True, frozen=True):
    """How the next token is chosen: llama.cpp's samplers, under its names and with its values for "off".

    The order of the chain is llama.cpp's own: logit bias, penalties, DRY, top-n-sigma, top-k, typical, top-p, min-p,
    XTC, temperature, draw; `samplers` names another. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 switch
    their step off.
    """

    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    seed: int | None = None
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_last_n: int = 64
    """Tokens back from the end that the penalties look at; 0 none, -1 the whole context."""
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    mirostat: int = 0
    """0 off, 1 Mirostat, 2 Mirostat 2.0: replaces every step after the penalties."""
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    logit_bias: list[tuple[int, float]] = []
    """(token, what is added to its logit); minus infinity bans it."""
    samplers: list[str] = []
    """Another order, by llama-server's names (``top_k``, ``typ_p``, ``temperature``, …); empty: the usual one."""


class Grammar(msgspec.Struct, array_like=True, frozen=True):
    """What an answer must match. ``kind`` says what ``value`` is: ``json_schema`` (the schema), ``json_object``
    (nothing), ``regex`` (a text), ``choice`` (a list of texts), ``gbnf`` (llama.cpp's EBNF), ``lark``
    (llguidance's)."""

    kind: str
    value: Any = None


class ToolCallDelta(msgspec.Struct, array_like=True):
    """A piece of the call number ``index``: ``id`` and ``name`` come once and first, then pieces of ``arguments``,
    whose concatenation is one JSON object."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class TokenLogprob(msgspec.Struct, array_like=True):
    """Natural logarithm of the probability of a token under the model's own distribution (before any sampler)."""

    token: int
    text: bytes
    logprob: float
    top: list[tuple[int, bytes, float]] = []
    """(token, text, logprob) of the likeliest, descending."""


class Load(msgspec.Struct, tag=True, array_like=True):
    """Load ``path``. ``device`` is ``cpu`` or ``cuda:N``: exactly what was decided, never a wish."""

    engine: str
    path: str
    device: str = "cpu"
    threads: int = 0
    """0 lets the engine choose for the machine."""
    settings: dict[str, Any] = {}
    files: dict[str, str] = {}
    """Files beside the model: ``projector`` (multimodal), ``draft`` (a smaller model), ``adapter:NAME`` (LoRA)."""
    card: Card = Card()
    """What was declared about a tensor model."""
    cache_folder: str = ""
    """Where the worker may keep what it would otherwise compute again after the next load; empty: nowhere."""


class Infer(msgspec.Struct, tag=True, array_like=True):
    """One batch; ``outputs`` empty asks for all. ``items``: the inputs are those of `Ready.items`, and go through the
    declared steps before and after the model."""

    id: int
    inputs: list[TensorHeader]
    outputs: list[str] = []
    items: bool = False


class Generate(msgspec.Struct, tag=True, array_like=True):
    """One sequence. Exactly one of ``messages`` (rendered by the chat template), ``prompt`` and
    ``prompt_tokens`` is set.

    ``messages`` are in one form whatever protocol brought them: ``role`` (``system``, ``user``, ``assistant``,
    ``tool``); ``content``, a text or a list of parts ``{"type": "text", "text": …}`` and ``{"type": "image",
    "media": i}``, the i-th of ``media``; an assistant's ``tool_calls`` ``[{"id", "type": "function", "function":
    {"name", "arguments": JSON text}}]`` and ``reasoning_content``; a tool's ``tool_call_id`` and ``name``.
    """

    id: int
    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    prompt_tokens: list[int] | None = None
    sampling: Sampling = Sampling()
    max_tokens: int = -1
    """-1: until the model stops or the context is full."""
    min_tokens: int = 0
    stop: list[str] = []
    ignore_eos: bool = False
    cache_prompt: bool = True
    tools: list[dict[str, Any]] = []
    """``[{"type": "function", "function": {"name", "description", "parameters": JSON schema}}]``"""
    tool_choice: str = "auto"
    """``auto``, ``none``, ``required``, or ``function:NAME``."""
    parallel_tool_calls: bool = True
    grammar: Grammar | None = None
    """What the answer must match; with reasoning, what comes after it."""
    variables: dict[str, Any] = {}
    """More variables for the chat template: ``enable_thinking``, ``reasoning_effort``, …"""
    continue_final: bool = False
    """The last message is the assistant's own and is continued, not answered."""
    parse: bool = True
    """Whether reasoning and calls are told apart from the text of an answer to ``messages``."""
    logprobs: int = -1
    """-1 none; n: each token's log-probability, and those of the n likeliest."""
    priority: int = 0
    """Lower is served earlier."""
    adapter: str = ""
    """Name of a LoRA adapter; empty: the model itself."""
    media: list[int] = []
    """Sizes, in bytes, of the images that follow as the payload."""


class Embed(msgspec.Struct, tag=True, array_like=True):
    """Embed each of ``inputs`` (a text, or its tokens); the embeddings have Euclidean length 1."""

    id: int
    inputs: list[str | list[int]]


class Rank(msgspec.Struct, tag=True, array_like=True):
    """Score how well each of ``documents`` answers ``query``. Only models whose ``pooling`` is ``rank``."""

    id: int
    query: str
    documents: list[str]


class Abort(msgspec.Struct, tag=True, array_like=True):
    """Stop sequence ``id`` within one step. Nothing is answered for it afterwards."""

    id: int


class Tokenize(msgspec.Struct, tag=True, array_like=True):
    """The tokens of ``text``, or of ``messages`` as the template renders them with ``tools`` and ``variables``; or the
    text of ``tokens``. Exactly one of the three is set."""

    id: int
    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    tokens: list[int] | None = None
    tools: list[dict[str, Any]] = []
    variables: dict[str, Any] = {}
    add_special: bool = True
    """Begin (and end) ``text`` as the model was trained to."""
    parse_special: bool = True
    """Whether ``<|names|>`` of special tokens in ``text`` mean those tokens."""
    pieces: bool = False
    """Whether the bytes of each token are wanted."""


class Unload(msgspec.Struct, tag=True, array_like=True):
    """Save what is worth keeping into `Load.cache_folder`, answer `Unloaded`, and wait for the end."""


class Hello(msgspec.Struct, tag=True, array_like=True):
    """First frame of a worker; ``secret`` proves that it is the process that was started."""

    secret: str
    pid: int
    version: int = VERSION


class Ready(msgspec.Struct, tag=True, array_like=True):
    """The model is loaded and has run once. One of ``signature`` and ``language`` is set."""

    engine: str
    engine_version: str
    device: str
    """Where it really runs: ``cpu``, ``cuda:0``."""
    provider: str = ""
    """The engine's own word: ``CPUExecutionProvider``, ``CPU : AVX512``."""
    threads: int = 0
    signature: Signature | None = None
    items: Signature | None = None
    """What a tensor model takes and gives together with its declared steps; `None`: it has none."""
    language: LanguageModel | None = None
    memory_bytes: int = 0
    """Resident memory of the worker after loading."""
    device_memory_bytes: int = 0
    notes: list[str] = []
    """Sentences that the user should read: a template that was stood in for, an axis that does not batch."""


class Failed(msgspec.Struct, tag=True, array_like=True):
    """The model could not be loaded; the worker exits after saying so. ``code`` is one of ``bad_model``,
    ``out_of_memory``, ``missing_library``, ``device_unavailable``, ``bad_setting``, ``engine_failed``."""

    code: str
    message: str
    hint: str = ""


class Inferred(msgspec.Struct, tag=True, array_like=True):
    id: int
    outputs: list[TensorHeader]
    compute_us: int
    """In the model itself."""
    input_us: int = 0
    """Before it: unpacking, and the declared steps."""
    output_us: int = 0
    """After it."""


class TokenEvent(msgspec.Struct, array_like=True):
    """What one step did for one sequence.

    The first event of a sequence says how long its prompt is and has no token; the last one has
    ``finish_reason``. ``text`` holds complete characters only, and never a stop string.
    """

    id: int
    text: str = ""
    tokens: int = 0
    """Tokens that this event adds to the answer."""
    finish_reason: str = ""
    """``stop``, ``length`` or ``tool_calls``."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    error_code: str = ""
    """Set where this one sequence failed: as `Rejected`, but the rest of the step goes on. Ends the sequence."""
    error_message: str = ""
    reasoning: str = ""
    """As `text`, of what the model thinks before it answers."""
    tool_calls: list[ToolCallDelta] | None = None
    logprobs: list[TokenLogprob] | None = None
    """One for each of `tokens`, where the request asks for them."""
    stop: str = ""
    """With ``finish_reason`` ``stop``: the stop string that ended it, if one did."""


class SchedulerLoad(msgspec.Struct, array_like=True):
    """The scheduler after a step: gauges, then counters since the start."""

    running: int = 0
    waiting: int = 0
    kv_used: float = 0.0
    """Share of the KV cells in use, 0 to 1."""
    cache_bytes: int = 0
    """Of computed prefixes that are kept outside the KV cells."""
    preempted: int = 0
    """Sequences that were sent back to the queue, since the start."""
    drafted: int = 0
    """Tokens that were guessed ahead (speculative decoding), since the start."""
    accepted: int = 0
    """Of them, those that the model would have chosen."""
    steps: int = 0
    """Since the start, as are the times."""
    step_us: int = 0
    """Written by the worker: from the end of a step to the end of the next, or from what woke it."""
    decode_us: int = 0
    """Of it, what the engine's own decode took; the rest is scheduling, sampling and telling."""


class Step(msgspec.Struct, tag=True, array_like=True):
    events: list[TokenEvent]
    load: SchedulerLoad


class Embedded(msgspec.Struct, tag=True, array_like=True):
    """Answers `Embed` (payload: FP32 [inputs, dimensions]) and `Rank` (FP32 [documents, 1]: scores)."""

    id: int
    tokens: list[int]
    """Of each input."""
    dimensions: int
    compute_us: int = 0


class Tokens(msgspec.Struct, tag=True, array_like=True):
    id: int
    tokens: list[int]
    text: str = ""
    """The prompt as rendered, or the text of the tokens that were given."""
    pieces: list[bytes] = []


class Unloaded(msgspec.Struct, tag=True, array_like=True):
    saved_bytes: int = 0


class Rejected(msgspec.Struct, tag=True, array_like=True):
    """One request failed; the worker goes on. ``code`` is ``invalid_input``, ``context_exceeded``,
    ``queue_full``, ``out_of_memory`` or ``engine_failed``; ``field`` names the input at fault."""

    id: int
    code: str
    message: str
    field: str = ""
    hint: str = ""


ToWorker = Load | Infer | Generate | Embed | Rank | Abort | Tokenize | Unload
ToDaemon = Hello | Ready | Failed | Inferred | Step | Embedded | Tokens | Rejected | Unloaded

_encoder = msgspec.msgpack.Encoder()
to_worker = msgspec.msgpack.Decoder(ToWorker)
to_daemon = msgspec.msgpack.Decoder(ToDaemon)


def frame(message: msgspec.Struct, payload_bytes: int = 0) -> bytes:
    """The lengths and the header; the caller sends ``payload_bytes`` bytes of payload right after."""
    header = _encoder.encode(message)
    return FRAME.pack(len(header), payload_bytes) + header

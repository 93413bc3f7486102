"""Messages between the daemon and a worker: the one file that both sides of the process edge share.

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
                         <--   Infer | Generate | Abort | Tokenize ...
      Inferred | Step | Tokens | Rejected -->

The daemon closing the worker's standard input is the order to exit.
"""

import struct
from typing import Any

import msgspec

VERSION = 1
FRAME = struct.Struct("<II")
#: A frame that claims a header beyond this is not one of ours.
MAX_HEADER_BYTES = 64 << 20


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output of a model. ``datatype`` is an Open Inference Protocol name (``FP32``, ``INT64``,
    ``BYTES``); a dimension of ``-1`` is dynamic."""

    name: str
    datatype: str
    shape: list[int]


class Signature(msgspec.Struct, frozen=True):
    """What a tensor model takes and gives. ``batched``: the first axis of every input and output is the batch."""

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


class TensorHeader(msgspec.Struct, array_like=True, frozen=True):
    """One tensor of a payload, in payload order."""

    name: str
    datatype: str
    shape: list[int]
    size_bytes: int


class Sampling(msgspec.Struct, omit_defaults=True, frozen=True):
    """How the next token is chosen. The order of the chain is llama.cpp's: penalties, top-k, top-p, min-p,
    temperature, draw. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 switch their step off."""

    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    seed: int | None = None
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


class Load(msgspec.Struct, tag=True, array_like=True):
    """Load ``path``. ``device`` is ``cpu`` or ``cuda:N``: exactly what was decided, never a wish."""

    engine: str
    path: str
    device: str = "cpu"
    threads: int = 0
    """0 lets the engine choose for the machine."""
    settings: dict[str, Any] = {}


class Infer(msgspec.Struct, tag=True, array_like=True):
    """One batch; ``outputs`` empty asks for all."""

    id: int
    inputs: list[TensorHeader]
    outputs: list[str] = []


class Generate(msgspec.Struct, tag=True, array_like=True):
    """One sequence. Exactly one of ``messages`` (rendered by the chat template), ``prompt`` and
    ``prompt_tokens`` is set."""

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


class Abort(msgspec.Struct, tag=True, array_like=True):
    """Stop sequence ``id`` within one step. Nothing is answered for it afterwards."""

    id: int


class Tokenize(msgspec.Struct, tag=True, array_like=True):
    """Count or list the tokens of ``text``, or of ``messages`` as the template renders them."""

    id: int
    text: str | None = None
    messages: list[dict[str, Any]] | None = None


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


class TokenEvent(msgspec.Struct, array_like=True):
    """What one step did for one sequence.

    The first event of a sequence says how long its prompt is and has no token; the last one has
    ``finish_reason`` (``stop``, ``length``). ``text`` holds complete characters only, and never a stop string.
    """

    id: int
    text: str = ""
    tokens: int = 0
    """Tokens that this event adds to the answer."""
    finish_reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    error_code: str = ""
    """Set where this one sequence failed: as `Rejected`, but the rest of the step goes on. Ends the sequence."""
    error_message: str = ""


class SchedulerLoad(msgspec.Struct, array_like=True):
    """Gauges of the scheduler after a step."""

    running: int = 0
    waiting: int = 0
    kv_used: float = 0.0
    """Share of the KV cells in use, 0 to 1."""


class Step(msgspec.Struct, tag=True, array_like=True):
    events: list[TokenEvent]
    load: SchedulerLoad
    step_us: int = 0


class Tokens(msgspec.Struct, tag=True, array_like=True):
    id: int
    tokens: list[int]


class Rejected(msgspec.Struct, tag=True, array_like=True):
    """One request failed; the worker goes on. ``code`` is ``invalid_input``, ``context_exceeded``,
    ``queue_full``, ``out_of_memory`` or ``engine_failed``; ``field`` names the input at fault."""

    id: int
    code: str
    message: str
    field: str = ""


ToWorker = Load | Infer | Generate | Abort | Tokenize
ToDaemon = Hello | Ready | Failed | Inferred | Step | Tokens | Rejected

_encoder = msgspec.msgpack.Encoder()
to_worker = msgspec.msgpack.Decoder(ToWorker)
to_daemon = msgspec.msgpack.Decoder(ToDaemon)


def frame(message: msgspec.Struct, payload_bytes: int = 0) -> bytes:
    """The lengths and the header; the caller sends ``payload_bytes`` bytes of payload right after."""
    header = _encoder.encode(message)
    return FRAME.pack(len(header), payload_bytes) + header

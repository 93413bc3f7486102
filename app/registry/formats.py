"""What a model file is, told from its bytes: enough to refuse what no engine could load, reading no weights."""

import contextlib
import json
import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.errors import ArtifactCorrupt

_LARGEST_ECHO_BYTES = 1 << 20
#: Tasks of files that are a part of a model and serve nothing alone.
LORA, PROJECTOR = "lora", "projector"


@dataclass(frozen=True)
class Facts:
    format: str
    """``gguf``, ``onnx`` or ``echo``."""
    precision: str | None = None
    task: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    """Of a GGUF file: ``architecture``, ``title``, ``parameters``, ``context_tokens``, ``chat_template`` (whether it
    has one),
    ``pooling``, ``part`` (`LORA` or `PROJECTOR`), ``layers``, and ``kv_values_per_token``: (of keys, of values) that
    key-value memory holds for each token."""


def inspect(path: Path, name: str = "") -> Facts:
    """What the file at ``path`` is, called ``name`` in errors. Blocks; reads the headers only.

    Raises `ArtifactCorrupt` with code ``bad_model`` for a file that is neither GGUF nor ONNX, or cut short.
    """
    name = name or path.name
    if path.stat().st_size == 0:
        raise _bad(name, "it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            if content[:4] == b"GGUF":
                return _gguf(_Reader(content))
            if content[:1] == b"{" and len(content) < _LARGEST_ECHO_BYTES:
                return _echo(content[:])
            return _onnx(_Reader(content))
        except (struct.error, IndexError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            reason = str(error) if isinstance(error, _Refusal) else "it is cut short or damaged"
            raise _bad(name, reason) from None


def _bad(name: str, reason: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(
        f"{name} is not a model that can be loaded: {reason}",
        hint="a model is a whole GGUF or ONNX file; fetch it again, or choose another file",
        code="bad_model",
    )


def _echo(content: bytes) -> Facts:
    """A model of the echo engine, with which the process edge is tested: ``{"engine": "echo", …}``."""
    behaviour = json.loads(content)
    if behaviour.get("engine") != "echo":
        raise _Refusal("it is JSON")
    return Facts("echo", task="echo")


class _Refusal(ValueError):
    """A reason to refuse, in words for the user."""


class _Reader:
    """A cursor over the mapped file; reading past its end raises `struct.error`."""

    def __init__(self, content: mmap.mmap):
        self.content, self.position, self.size_bytes = content, 0, len(content)

    def unpack(self, layout: struct.Struct) -> Any:
        values = layout.unpack_from(self.content, self.position)
        self.position += layout.size
        return values[0]

    def skip(self, count: int) -> None:
        self.position += count
        if not 0 <= self.position <= self.size_bytes:
            raise _Refusal("it is cut short")

    def take(self, count: int) -> bytes:
        start = self.position
        self.skip(count)
        return self.content[start : self.position]


# --- GGUF (docs/gguf.md of ggml) -----------------------------------

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_SCALARS = {
    kind: struct.Struct(f"<{code}")
    for kind, code in zip([0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12], "BbHhIif?Qqd", strict=True)
}
_STRING, _ARRAY = 8, 9
#: ggml type → (values in a block, bytes of a block)
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
}  # fmt: skip
#: Most that ggml knows.
_DIMENSIONS = 4
#: ``general.file_type`` → the name that everyone writes
_FILE_TYPES = {
    0: "fp32", 1: "fp16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k", 11: "q3_k_s",
    12: "q3_k_m", 13: "q3_k_l", 14: "q4_k_s", 15: "q4_k_m", 16: "q5_k_s", 17: "q5_k_m", 18: "q6_k", 19: "iq2_xxs",
    20: "iq2_xs", 21: "q2_k_s", 22: "iq3_xs", 23: "iq3_xxs", 24: "iq1_s", 25: "iq4_nl", 26: "iq3_s", 27: "iq3_m",
    28: "iq2_s", 29: "iq2_m", 30: "iq4_xs", 31: "iq1_m", 32: "bf16",
}  # fmt: skip
#: Architectures of llama.cpp that embed instead of generating.
_EMBEDDING = {
    "bert",
    "modern-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "neo-bert",
    "jina-bert-v2",
    "jina-bert-v3",
    "eurobert",
    "gemma-embedding",
    "llama-embed",
    "t5encoder",
}
#: ``ARCHITECTURE.pooling_type``, as llama.cpp numbers them; 0 is none.
_POOLING = {1: "mean", 2: "cls", 3: "last", 4: "rank"}
#: Arrays of numbers up to this length are read: one value a layer, and not a vocabulary.
_LAYERS = 1024
#: What is told from the header more surely than from what a source says of it.
TOLD_BY_HEADER = {"embedding", "rerank", LORA, PROJECTOR}


@dataclass(frozen=True)
class Header:
    """What stands before the weights of a GGUF file."""

    values: dict[str, Any]
    """By the names of GGUF's specification. An array that is long, or not of numbers, is `None` unless asked for."""
    parameters: int
    end: int
    """Of the weights, in bytes from their start."""


def header(path: Path, *, arrays: bool = False) -> Header:
    """The header of the GGUF file at ``path``. Blocks: a vocabulary of 262,144 takes a large part of a second.

    Raises `ArtifactCorrupt` for what is not one.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            return _header(_Reader(content), arrays)
        except (struct.error, IndexError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            reason = str(error) if isinstance(error, _Refusal) else "it is cut short or damaged"
            raise _bad(path.name, reason) from None


def _header(reader: _Reader, arrays: bool = False) -> Header:
    if reader.take(4) != b"GGUF":
        raise _Refusal("it is not GGUF")
    if (version := reader.unpack(_U32)) not in (2, 3):
        raise _Refusal(f"it is GGUF of version {version}, and versions 2 and 3 can be read")
    tensors, pairs = reader.unpack(_U64), reader.unpack(_U64)
    values = {}
    for _ in range(pairs):
        key = _string(reader)
        values[key] = _value(reader, reader.unpack(_U32), arrays)
    if tensors == 0:
        raise _Refusal("it holds no tensors")
    sizes = [_tensor(reader) for _ in range(tensors)]
    return Header(values, sum(count for count, _ in sizes), max(end for _, end in sizes))


def _gguf(reader: _Reader) -> Facts:
    head = _header(reader)
    values = head.values
    alignment = values.get("general.alignment", 32)
    start = -(-reader.position // alignment) * alignment
    if start + head.end > reader.size_bytes:
        raise _Refusal(f"it is cut short: {reader.size_bytes:,} bytes where {start + head.end:,} are needed")
    if values.get("general.type") == "imatrix":
        raise _Refusal("it is an importance matrix, which quantises models and is none")
    architecture = values.get("general.architecture", "")
    task = _task(architecture, values)
    facts = {
        "architecture": architecture,
        "title": values.get("general.name"),
        "parameters": head.parameters,
        "context_tokens": values.get(f"{architecture}.context_length"),
        "chat_template": "tokenizer.chat_template" in values,
        "pooling": _POOLING.get(values.get(f"{architecture}.pooling_type", 0)),
        "part": task if task in (LORA, PROJECTOR) else None,
        "layers": values.get(f"{architecture}.block_count"),
        "kv_values_per_token": _kv_values(architecture, values),
    }
    return Facts(
        "gguf",
        precision=_FILE_TYPES.get(values.get("general.file_type", -1)),
        task=task,
        metadata={key: value for key, value in facts.items() if value is not None},
    )


def _task(architecture: str, values: Mapping[str, Any]) -> str:
    if values.get("general.type") == "adapter":
        return LORA
    if architecture == "clip" or values.get("general.type") == "mmproj":
        return PROJECTOR
    pooling = _POOLING.get(values.get(f"{architecture}.pooling_type", 0))
    if pooling == "rank":
        return "rerank"
    return "embedding" if pooling or architecture in _EMBEDDING else "text-generation"


def _kv_values(architecture: str, values: Mapping[str, Any]) -> list[int] | None:
    """Of keys and of values, for a token, all layers together; `None` where the header does not say."""

    def read(name: str) -> Any:
        return values.get(f"{architecture}.{name}")

    layers, heads = read("block_count"), read("attention.head_count")
    heads_kv = read("attention.head_count_kv") or heads  # one number, or one for each layer
    if not layers or not heads_kv or architecture in _EMBEDDING:  # encoders keep nothing
        return None
    width = (read("embedding_length") or 0) // max(heads, 1) if isinstance(heads, int) else 0
    sizes = [read(f"attention.{kind}_length") or width for kind in ("key", "value")]
    own = max(layers - (read("attention.shared_kv_layers") or 0), 0)
    total = sum(heads_kv[:own]) if isinstance(heads_kv, list) else heads_kv * own
    return [total * size for size in sizes] if all(sizes) else None


def _string(reader: _Reader) -> str:
    return reader.take(reader.unpack(_U64)).decode("utf-8", "replace")


def _value(reader: _Reader, kind: int, arrays: bool = False) -> Any:
    """One value. Unless ``arrays``, a long array is walked over and `None`, as is one that is not of numbers."""
    if kind in _SCALARS:
        return reader.unpack(_SCALARS[kind])
    if kind == _STRING:
        return _string(reader)
    if kind != _ARRAY:
        raise _Refusal(f"its header has a value of unknown type {kind}")
    item, count = reader.unpack(_U32), reader.unpack(_U64)
    if arrays:
        return [_value(reader, item, arrays) for _ in range(count)]
    if item in _SCALARS and count <= _LAYERS:
        return [reader.unpack(_SCALARS[item]) for _ in range(count)]
    if item in _SCALARS:
        reader.skip(count * _SCALARS[item].size)
    elif item == _STRING:
        for _ in range(count):
            reader.skip(reader.unpack(_U64))
    else:
        for _ in range(count):
            _value(reader, item)
    return None


def _tensor(reader: _Reader) -> tuple[int, int]:
    """Of the next tensor: how many values it has, and where its data ends, from the start of the data section."""
    reader.skip(reader.unpack(_U64))  # its name
    values, dimensions = 1, reader.unpack(_U32)
    if dimensions > _DIMENSIONS:
        raise _Refusal(f"it has a tensor of {dimensions} dimensions")
    for _ in range(dimensions):
        values *= reader.unpack(_U64)
    kind, offset = reader.unpack(_U32), reader.unpack(_U64)
    per_block, block_bytes = _BLOCKS.get(kind, (1, 0))
    return values, offset + -(-values // per_block) * block_bytes


# --- ONNX: a protobuf ModelProto (onnx.proto) -----------------

_IR_VERSION, _GRAPH = 1, 7


def _onnx(reader: _Reader) -> Facts:
    """Walk the top-level fields: they must fill the file exactly and hold an IR version and a graph."""
    skips: dict[int, Callable[[], Any]] = {
        0: lambda: _varint(reader),
        1: lambda: reader.skip(8),
        2: lambda: reader.skip(_varint(reader)),
        5: lambda: reader.skip(4),
    }
    seen = set()
    with contextlib.suppress(KeyError):  # a wire type that protobuf does not have: no ModelProto
        while reader.position < reader.size_bytes:
            tag = _varint(reader)
            if tag >> 3 not in range(1, 27):
                break
            try:
                skips[tag & 7]()
            except _Refusal:
                if _IR_VERSION in seen:
                    raise
                break
            seen.add(tag >> 3)
        else:
            if {_IR_VERSION, _GRAPH} <= seen:
                return Facts("onnx")
    raise _Refusal("it begins like neither GGUF nor ONNX")


def _varint(reader: _Reader) -> int:
    value = shift = 0
    while True:
        byte = reader.content[reader.position]
        reader.position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7
        if shift > 63:
            raise ValueError("not a varint")

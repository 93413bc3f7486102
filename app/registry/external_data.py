"""Which files an ONNX model keeps weights in beside itself (onnx.proto: `TensorProto.external_data`)."""

import mmap
from collections.abc import Iterator
from pathlib import Path

#: Field numbers: ModelProto.graph, GraphProto.initializer, TensorProto.external_data, its key and value.
_GRAPH, _INITIALIZER, _EXTERNAL, _KEY, _VALUE = 7, 5, 13, 1, 2
_FIXED_BYTES = {1: 8, 5: 4}
_LENGTH_DELIMITED = 2


def locations(path: Path) -> list[str]:
    """Paths relative to the model's folder, each once, as the file at ``path`` gives them: nobody has checked where
    they lead. Empty for a file that is no ONNX. Blocks; reads no weights."""
    if path.stat().st_size == 0:
        return []
    found: dict[str, None] = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            for graph in _messages(content, (0, len(content)), _GRAPH):
                for tensor in _messages(content, graph, _INITIALIZER):
                    for entry in _messages(content, tensor, _EXTERNAL):
                        pair = {number: content[slice(*span)] for number, span in _fields(content, entry)}
                        if pair.get(_KEY) == b"location":
                            found[pair.get(_VALUE, b"").decode()] = None
        except (IndexError, ValueError):
            return []
    return list(found)


def _messages(content: mmap.mmap, span: tuple[int, int], wanted: int) -> Iterator[tuple[int, int]]:
    return (inner for number, inner in _fields(content, span) if number == wanted)


def _fields(content: mmap.mmap, span: tuple[int, int]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Number and place of every length-delimited field of a message. Raises `ValueError`, `IndexError`."""
    position, end = span
    while position < end:
        tag, position = _varint(content, position)
        if tag & 7 == _LENGTH_DELIMITED:
            size, position = _varint(content, position)
            if position + size > end:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, (position, position + size)
            position += size
        elif tag & 7 == 0:
            _, position = _varint(content, position)
        elif tag & 7 in _FIXED_BYTES:
            position += _FIXED_BYTES[tag & 7]
        else:
            raise ValueError("not a wire type")


def _varint(content: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("not a varint")

"""Which files an ONNX model keeps weights in beside itself (onnx.proto: `TensorProto.external_data`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

#: Field numbers: ModelProto.graph, GraphProto.initializer, TensorProto.external_data, its key and value.
_GRAPH, _INITIALIZER, _EXTERNAL, _KEY, _VALUE = 7, 5, 13, 1, 2
_FIXED_BYTES = {1: 8, 5: 4}
_LENGTH_DELIMITED = 2
_WINDOW_BYTES = 16 << 10


def locations(path: Path) -> list[str]:
    """Paths relative to the model's folder, each once, as the file at ``path`` gives them: nobody has checked where
    they lead. Empty for a file that is no ONNX. Blocks; reads no weights."""
    found: dict[str, None] = {}
    with path.open("rb", buffering=0) as file:
        content = _Content(file)
        try:
            for graph in _messages(content, (0, path.stat().st_size), _GRAPH):
                for tensor in _messages(content, graph, _INITIALIZER):
                    for entry in _messages(content, tensor, _EXTERNAL):
                        pair = {number: content.read(*span) for number, span in _fields(content, entry)}
                        if pair.get(_KEY) == b"location":
                            found[pair.get(_VALUE, b"").decode()] = None
        except (IndexError, ValueError):
            return []
    return list(found)


class _Content:
    """A file by position. Not mapped: the daemon would end with a file that shrinks while it is looked at."""

    def __init__(self, file: BinaryIO):
        self._file, self._start, self._window = file, 0, b""

    def __getitem__(self, position: int) -> int:
        """Raises `IndexError` at the end."""
        if not 0 <= position - self._start < len(self._window):
            self._start, self._window = position, self.read(position, position + _WINDOW_BYTES)
        return self._window[position - self._start]

    def read(self, start: int, stop: int) -> bytes:
        self._file.seek(start)
        return self._file.read(stop - start)


def _messages(content: _Content, span: tuple[int, int], wanted: int) -> Iterator[tuple[int, int]]:
    return (inner for number, inner in _fields(content, span) if number == wanted)


def _fields(content: _Content, span: tuple[int, int]) -> Iterator[tuple[int, tuple[int, int]]]:
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


def _varint(content: _Content, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("not a varint")

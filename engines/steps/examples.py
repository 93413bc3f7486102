"""An item of each kind, made up: to try the steps with while a model is loaded."""

import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from engines.card import Card, Column, Columns, DecodeAudio, TokenizeText
from engines.protocol import TensorSpec


def example(card: Card, taken: Sequence[TensorSpec]) -> bytes | None:
    """`None` where nothing says what an item looks like."""
    match card.item:
        case "text":
            pairs = any(isinstance(step, TokenizeText) and step.pairs for step in card.before)
            return msgspec.json.encode(["Hello", "Hello"]) if pairs else b"Hello"
        case "image":
            return bmp(32, 24)
        case "audio":
            for step in card.before:
                if isinstance(step, DecodeAudio):
                    return _sound(step)
            return wav(16000, 16000)
        case "row":
            return _row(card, taken)
        case "file":
            return b"Hello"
        case _:
            return None


def bmp(width: int, height: int) -> bytes:
    """A grey picture of 24 bits; a line is a multiple of four bytes."""
    line = -(-width * 3 // 4) * 4
    head = struct.pack("<2sIHHI", b"BM", 54 + line * height, 0, 0, 54)
    return head + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + b"\x80" * (line * height)


def wav(samples: int, rate: int) -> bytes:
    """Silence, 16 bits."""
    layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, rate * 2, 2, 16)
    body = struct.pack("<4sI", b"data", samples * 2) + bytes(samples * 2)
    return b"RIFF" + struct.pack("<I", 4 + len(layout) + len(body)) + b"WAVE" + layout + body


def _sound(step: DecodeAudio) -> bytes:
    """A second, or what is allowed."""
    rate = step.raw_rate if step.encoding != "wav" else step.rate or 16000
    samples = max(1, int(rate * min(1.0, step.max_seconds)))
    if step.encoding == "wav":
        return wav(samples, rate)
    bits = int(step.encoding[1:])
    return (b"\x80" if step.encoding == "u8" else bytes(bits // 8)) * samples * step.raw_channels


def _row(card: Card, taken: Sequence[TensorSpec]) -> bytes | None:
    for step in card.before:
        if isinstance(step, Columns):
            return msgspec.json.encode([_cell(column) for column in step.columns])
    shape = taken[0].shape[1:] if len(taken) == 1 else []
    if card.before or len(shape) != 1 or shape[0] == -1:
        return None
    return msgspec.json.encode(([""] if taken[0].datatype == "BYTES" else [0]) * shape[0])


def _cell(column: Column) -> Any:
    match column.type:
        case "number":
            return column.mean
        case "category":
            return column.categories[0]
        case _:
            return ""

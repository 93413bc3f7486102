"""GGUF files as small as they can be, whose headers say what a test wants."""

import struct


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def pair(key: str, value: object) -> bytes:
    """A key and its value: a text, a flag, a whole number, or a list of whole numbers."""
    if isinstance(value, str):
        return string(key) + struct.pack("<I", 8) + string(value)
    if isinstance(value, bool):
        return string(key) + struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return string(key) + struct.pack("<II", 4, value)
    assert isinstance(value, list)
    return string(key) + struct.pack(f"<IIQ{len(value)}I", 9, 4, len(value), *value)


def gguf(
    *,
    version: int = 3,
    kind: int = 0,
    values: tuple[int, ...] = (8, 4),
    data_bytes: int = 128,
    architecture: str = "gemma3",
    more: dict[str, object] | None = None,
) -> bytes:
    """A GGUF file with one tensor, as small as one can be."""
    pairs = [
        (b"".join([string("general.architecture"), struct.pack("<I", 8), string(architecture)])),
        (b"".join([string("general.file_type"), struct.pack("<II", 4, 15)])),
        (b"".join([string(f"{architecture}.context_length"), struct.pack("<II", 4, 4096)])),
        (b"".join([string("tokenizer.tokens"), struct.pack("<IIQ", 9, 8, 2), string("a"), string("bc")])),
        (b"".join([string("tokenizer.scores"), struct.pack("<IIQff", 9, 6, 2, 0.5, 1.5)])),
        (b"".join([string("tokenizer.chat_template"), struct.pack("<I", 8), string("{{ x }}")])),
        *(pair(key, value) for key, value in (more or {}).items()),
    ]
    tensor = string("weight") + struct.pack(f"<I{len(values)}QIQ", len(values), *values, kind, 0)
    header = b"GGUF" + struct.pack("<IQQ", version, 1, len(pairs)) + b"".join(pairs) + tensor
    return header + bytes(-len(header) % 32) + bytes(data_bytes)

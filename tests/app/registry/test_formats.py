import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import ArtifactCorrupt
from app.paths import resource
from app.registry.formats import header, inspect

DIGITS = resource("digits") / "digits.onnx"


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(
    *, version: int = 3, kind: int = 0, values: tuple[int, ...] = (8, 4), data_bytes: int = 128, architecture="gemma3"
) -> bytes:
    """A GGUF file with one tensor, as small as one can be."""
    pairs = [
        (b"".join([string("general.architecture"), struct.pack("<I", 8), string(architecture)])),
        (b"".join([string("general.file_type"), struct.pack("<II", 4, 15)])),
        (b"".join([string(f"{architecture}.context_length"), struct.pack("<II", 4, 4096)])),
        (b"".join([string("tokenizer.tokens"), struct.pack("<IIQ", 9, 8, 2), string("a"), string("bc")])),
        (b"".join([string("tokenizer.scores"), struct.pack("<IIQff", 9, 6, 2, 0.5, 1.5)])),
        (b"".join([string("tokenizer.chat_template"), struct.pack("<I", 8), string("{{ x }}")])),
    ]
    tensor = string("weight") + struct.pack(f"<I{len(values)}QIQ", len(values), *values, kind, 0)
    header = b"GGUF" + struct.pack("<IQQ", version, 1, len(pairs)) + b"".join(pairs) + tensor
    return header + bytes(-len(header) % 32) + bytes(data_bytes)


@pytest.fixture(scope="session")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("formats") / "model.bin"


def look(path: Path, content: bytes):
    path.write_bytes(content)
    return inspect(path)


def test_gguf_says_what_it_is(path):
    facts = look(path, gguf())
    assert (facts.format, facts.precision, facts.task) == ("gguf", "q4_k_m", "text-generation")
    assert facts.metadata == {
        "architecture": "gemma3",
        "parameters": 32,
        "context_tokens": 4096,
        "chat_template": True,
    }
    assert look(path, gguf(architecture="bert")).task == "embedding"


def test_the_header_of_a_gguf_file_with_and_without_its_vocabulary(path):
    path.write_bytes(gguf())
    short, whole = header(path), header(path, arrays=True)
    assert short.values["general.architecture"] == "gemma3"
    assert (short.values["tokenizer.tokens"], whole.values["tokenizer.tokens"]) == (None, ["a", "bc"])
    assert whole.values["tokenizer.scores"] == short.values["tokenizer.scores"] == [0.5, 1.5]
    path.write_bytes(b"GGML")
    with pytest.raises(ArtifactCorrupt, match="not GGUF"):
        header(path)


def test_onnx_is_recognised(path):
    assert inspect(DIGITS).format == "onnx"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gguf(version=1), "version 1"),
        (gguf(data_bytes=127), "cut short"),
        (gguf(kind=12, values=(256, 2), data_bytes=287), "cut short"),
        (gguf()[:100], "cut short"),
        (b"GGUF", "cut short"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "no tensors"),
        (DIGITS.read_bytes()[:-1], "cut short"),
        (DIGITS.read_bytes() + b"\0", "neither"),
        (b"PK\3\4 a zip archive", "neither"),
        (b"<!doctype html><html>", "neither"),
        (b"", "empty"),
    ],
)
def test_what_is_refused_and_why(path, content, reason):
    with pytest.raises(ArtifactCorrupt, match=reason) as caught:
        look(path, content)
    assert caught.value.code == "bad_model"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.binary(max_size=200), st.sampled_from([b"", b"GGUF", b"GGUF\3\0\0\0", b"\x08\x08", gguf()[:90]]))
def test_no_bytes_do_worse_than_be_refused(path, tail, start):
    try:
        look(path, start + tail)
    except ArtifactCorrupt as error:
        assert error.code == "bad_model"

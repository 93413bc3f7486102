import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import ArtifactCorrupt
from app.paths import resource
from app.registry.formats import header, inspect
from tests.support.gguf_bytes import gguf

DIGITS = resource("digits") / "digits.onnx"


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


@pytest.mark.parametrize(
    ("more", "task", "part"),
    [
        ({}, "text-generation", None),
        ({"general.type": "model"}, "text-generation", None),
        ({"general.type": "adapter", "adapter.type": "lora"}, "lora", "lora"),
        ({"general.type": "mmproj"}, "projector", "projector"),
        ({"llama.pooling_type": 0}, "text-generation", None),
        ({"llama.pooling_type": 1}, "embedding", None),
        ({"llama.pooling_type": 3}, "embedding", None),
        ({"llama.pooling_type": 4}, "rerank", None),
    ],
)
def test_what_a_gguf_is_for(path, more, task, part):
    facts = look(path, gguf(architecture="llama", more=more))
    assert (facts.task, facts.metadata.get("part")) == (task, part)


@pytest.mark.parametrize(
    ("architecture", "task"), [("clip", "projector"), ("bert", "embedding"), ("llama-embed", "embedding")]
)
def test_what_an_architecture_is_for(path, architecture, task):
    assert look(path, gguf(architecture=architecture)).task == task


def test_the_pooling_is_told(path):
    assert look(path, gguf(architecture="bert", more={"bert.pooling_type": 2})).metadata["pooling"] == "cls"


SIZES = {"llama.block_count": 4, "llama.attention.head_count": 8, "llama.embedding_length": 512}


@pytest.mark.parametrize(
    ("more", "values"),
    [
        (SIZES, [4 * 8 * 64, 4 * 8 * 64]),
        (SIZES | {"llama.attention.head_count_kv": 2}, [4 * 2 * 64, 4 * 2 * 64]),
        (SIZES | {"llama.attention.key_length": 96}, [4 * 8 * 96, 4 * 8 * 64]),
        (SIZES | {"llama.attention.head_count_kv": [0, 2, 0, 2]}, [4 * 64, 4 * 64]),  # layers without attention
        (SIZES | {"llama.attention.shared_kv_layers": 1}, [3 * 8 * 64, 3 * 8 * 64]),
        (SIZES | {"llama.attention.head_count_kv": 2, "llama.attention.head_count": [8, 8, 8, 8]}, None),
        ({"llama.block_count": 4}, None),
        ({"llama.block_count": "four", "llama.attention.head_count": "many"}, "refused"),
    ],
)
def test_what_key_value_memory_holds_for_a_token(path, more, values):
    if values == "refused":
        with pytest.raises(ArtifactCorrupt):
            look(path, gguf(architecture="llama", more=more))
        return
    facts = look(path, gguf(architecture="llama", more=more))
    assert facts.metadata.get("kv_values_per_token") == values
    assert facts.metadata["layers"] == 4


def test_an_encoder_holds_nothing(path):
    sizes = {key.replace("llama", "bert"): value for key, value in SIZES.items()}
    assert "kv_values_per_token" not in look(path, gguf(architecture="bert", more=sizes)).metadata


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
        (gguf(more={"general.type": "imatrix"}), "importance matrix"),
        (gguf(more={"general.alignment": 0}), "damaged"),
        (b"GGUF" + struct.pack("<IQQQI", 3, 1, 1, 0, 9) + struct.pack("<IQ", 9, 1) * 9999, "damaged"),
        (gguf(more={"general.alignment": "wide"}), "damaged"),
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

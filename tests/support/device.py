"""Where the tests of engines run their models: ``PILOTHOUSE_TEST_DEVICE``, the CPU by default."""

import os

import pytest

from engines import hardware

DEVICE = os.environ.get("PILOTHOUSE_TEST_DEVICE", "cpu")


def why_no_gpu() -> str:
    """Empty where llama.cpp can use a GPU here."""
    sampler = hardware.Sampler()
    try:
        facts = sampler.facts()
    finally:
        sampler.close()
    if not facts.gpus:
        return facts.gpu_note or "no GPU"
    llama_cpp = pytest.importorskip("llama_cpp")
    return "" if llama_cpp.llama_supports_gpu_offload() else "this build of llama.cpp was made without a GPU backend"

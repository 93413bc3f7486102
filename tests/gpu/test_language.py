"""Language models on a GPU: everything is there, and it does what it does on the CPU."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon

ROOT = Path(__file__).parents[2]
SAME_TESTS = [
    "tests/engines/llamacpp/test_engine.py",
    "tests/engines/llamacpp/test_engine_prefixes.py",
    "tests/engines/llamacpp/test_adapters.py",
    "tests/engines/llamacpp/test_draft_model.py",
    "tests/engines/llamacpp/test_embedder.py",
    "tests/e2e/test_language.py",
    "tests/e2e/test_openai_client.py",
    "tests/e2e/test_anthropic_client.py",
    "tests/e2e/test_ollama_client.py",
]
TOKENS = 256


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, gguf_path: Path, gpu: str) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path_factory.mktemp("gpu")) as running:
        running.pull(f"file:{gguf_path}", name="gemma")
        state = running.deploy("gemma", device=gpu)
        assert state["state"] == "ready", state["error"]
        yield running


def test_all_layers_are_on_the_gpu(daemon: RunningDaemon, gguf_path: Path, gpu: str) -> None:
    state = daemon.get("/manage/v1/deployments/gemma")
    assert state["device"] == gpu
    layers = next(note for note in state["notes"] if "layers are on" in note)
    on_gpu, _, of = layers.split()[:3]
    assert on_gpu == of
    # Weights and key-value cells; the token embeddings may stay in host memory.
    assert state["device_memory_bytes"] > gguf_path.stat().st_size / 2


def test_it_answers_as_on_the_cpu(daemon: RunningDaemon) -> None:
    ask = {"model": "gemma", "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
    assert daemon.post("/v1/completions", ask)["choices"][0]["text"].startswith(" Paris")


def test_tokens_per_second_beside_llama_bench(
    daemon: RunningDaemon, gguf_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The figures are recorded, not judged: machines differ, and this one may be shared."""
    bench = os.environ.get("PILOTHOUSE_TEST_LLAMA_BENCH") or shutil.which("llama-bench")
    ask = {"model": "gemma", "prompt": "Once", "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    daemon.post("/v1/completions", ask)
    started = time.perf_counter()
    counted = daemon.post("/v1/completions", ask)["usage"]["completion_tokens"]
    ours = counted / (time.perf_counter() - started)
    assert counted == TOKENS
    record_property("tokens_per_second", round(ours, 1))
    print(f"one stream over HTTP: {ours:.1f} tokens/s")
    if bench is None:
        pytest.skip("llama-bench is not here to compare with: name it by PILOTHOUSE_TEST_LLAMA_BENCH")
    command = [bench, "-m", str(gguf_path), "-p", "0", "-n", str(TOKENS), "-ngl", "99", "-o", "json"]
    run = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=300).stdout)[0]
    record_property("llama_bench_tokens_per_second", round(run["avg_ts"], 1))
    print(f"llama-bench: {run['avg_ts']:.1f} tokens/s, ratio {ours / run['avg_ts']:.2f}")


def test_the_same_tests_pass_on_the_gpu(gpu: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SAME_TESTS]
    environment = {**os.environ, "PILOTHOUSE_TEST_DEVICE": gpu}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=1800
    )
    assert ended.returncode == 0, ended.stdout[-4000:]

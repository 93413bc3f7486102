"""LoRA adapters on Gemma 3 270M: small ones with random weights, whose effect is known in advance or measured."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.device import DEVICE

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")

from engines.engine import EngineError
from engines.llamacpp.adapters import Adapters
from engines.llamacpp.runner import Row, Runner
from engines.llamacpp.settings import Settings
from tests.support import tiny_gguf

pytestmark = pytest.mark.slow

SHAPES = {f"blk.{i}.{name}.weight": (out, 640) for i in (0, 9) for name, out in [("attn_q", 1024), ("ffn_up", 2048)]}


@pytest.fixture(scope="module")
def runner(gguf_path: Path) -> Iterator[Runner]:
    """One context for all tests, opened as a server does: after the model, before any adapter is in force."""
    opened = Runner(str(gguf_path), DEVICE, 2, Settings())
    opened.open_context(
        dataclasses.replace(Settings(), sequences=2, context_tokens=256, kv_tokens=512, batch_tokens=64, step_tokens=64)
    )
    yield opened
    opened.close()


def adapter(folder: Path, name: str, scale: float, seed: int = 0, **metadata: str) -> str:
    path = folder / f"{name}.gguf"
    tiny_gguf.lora(path, "gemma3", SHAPES, scale=scale, seed=seed, **metadata)
    return str(path)


def greedy(runner: Runner, count: int = 6) -> list[int]:
    """The tokens that follow a prompt, computed afresh."""
    tokens = runner.tokenize("Monday, Tuesday, Wednesday,")
    runner.keep(0, 0)
    prompt = len(tokens)
    fresh, start = tokens, 0
    while len(tokens) < prompt + count:
        logits = runner.decode([Row(0, start, fresh, 1)])
        start = len(tokens)
        fresh = [int(logits[0].argmax())]
        tokens = tokens + fresh
    return tokens[prompt:]


def test_each_adapter_in_turn_and_back(runner: Runner, tmp_path: Path) -> None:
    base = greedy(runner)
    adapters = Adapters(
        runner.model,
        {
            "zero": adapter(tmp_path, "zero", 0.0),
            "one": adapter(tmp_path, "one", 2.0, seed=1),
            "two": adapter(tmp_path, "two", 2.0, seed=2),
        },
    )
    try:
        assert adapters.names == ["zero", "one", "two"]
        assert greedy(runner) == base
        assert adapters.apply(runner.context, "zero")
        assert greedy(runner) == base
        assert adapters.apply(runner.context, "one")
        one = greedy(runner)
        assert one != base
        assert adapters.apply(runner.context, "two")
        assert greedy(runner) not in (base, one)
        assert adapters.apply(runner.context, "one")
        assert greedy(runner) == one
        assert adapters.apply(runner.context, "one", scale=0.0)
        assert greedy(runner) == base
        assert adapters.apply(runner.context, "")
        assert greedy(runner) == base
    finally:
        adapters.apply(runner.context, "")
        adapters.close()


def test_what_is_in_force_is_not_applied_again(runner: Runner, tmp_path: Path) -> None:
    adapters = Adapters(runner.model, {"one": adapter(tmp_path, "one", 1.0)})
    assert not adapters.apply(runner.context, "")
    assert adapters.apply(runner.context, "one")
    assert not adapters.apply(runner.context, "one")
    assert adapters.apply(runner.context, "one", scale=0.5)
    assert adapters.apply(runner.context, "")
    assert not adapters.apply(runner.context, "")
    adapters.close()


def test_the_file_says_what_an_adapter_is_for(runner: Runner, tmp_path: Path) -> None:
    path = adapter(tmp_path, "sql", 1.0, task_name="sql", prompt_prefix="Translate to SQL: ")
    adapters = Adapters(runner.model, {"sql": path})
    loaded = adapters["sql"]
    assert (loaded.alpha, loaded.task, loaded.prompt_prefix) == (8.0, "sql", "Translate to SQL: ")
    adapters.close()


def test_an_unknown_name_is_refused_with_the_known_ones(runner: Runner, tmp_path: Path) -> None:
    adapters = Adapters(runner.model, {"one": adapter(tmp_path, "one", 1.0)})
    with pytest.raises(EngineError) as refused:
        adapters.apply(runner.context, "two")
    assert (refused.value.code, refused.value.field) == ("invalid_input", "adapter")
    assert "one" in refused.value.hint
    adapters.close()


def test_a_file_that_does_not_fit_is_named(runner: Runner, tmp_path: Path) -> None:
    other_family, wrong_shape, unknown_tensor = (tmp_path / name for name in ("family", "shape", "tensor"))
    tiny_gguf.lora(other_family, "llama", SHAPES)
    tiny_gguf.lora(wrong_shape, "gemma3", {"blk.0.attn_q.weight": (1024, 512)})
    tiny_gguf.lora(unknown_tensor, "gemma3", {"blk.99.attn_q.weight": (1024, 640)})
    text = tmp_path / "text"
    text.write_text("no adapter")
    good = adapter(tmp_path, "good", 1.0)
    for path, reason in [
        (other_family, "mismatch"),
        (wrong_shape, "shape"),
        (unknown_tensor, "blk.99"),
        (text, "fail"),
        (tmp_path / "missing", "not there"),
    ]:
        with pytest.raises(EngineError, match=reason) as refused:
            Adapters(runner.model, {"good": good, "legal": str(path)})
        assert refused.value.code == "bad_model"
        assert "adapter legal" in refused.value.message

"""A draft model: Gemma 3 270M guessing for itself, so that every guess must hold."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.device import DEVICE

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")

from engines.engine import EngineError
from engines.llamacpp.draft_model import DraftModel
from engines.llamacpp.runner import Row, Runner
from engines.llamacpp.settings import Settings
from tests.support import tiny_gguf

pytestmark = pytest.mark.slow

CONTEXT = 256


@pytest.fixture(scope="module")
def target(gguf_path: Path) -> Iterator[Runner]:
    opened = Runner(str(gguf_path), DEVICE, 2, Settings())
    opened.open_context(
        dataclasses.replace(
            Settings(), sequences=1, context_tokens=CONTEXT, kv_tokens=CONTEXT, batch_tokens=64, step_tokens=64
        )
    )
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def model(gguf_path: Path, target: Runner) -> Iterator[DraftModel]:
    opened = DraftModel(str(gguf_path), target, DEVICE, 2, sequences=2, context_tokens=CONTEXT)
    yield opened
    opened.close()


def greedy(runner: Runner, tokens: list[int], count: int) -> list[int]:
    """What the model writes after ``tokens``, one by one."""
    runner.keep(0, 0)
    answer: list[int] = []
    position, fresh = 0, tokens
    while len(answer) < count:
        logits = runner.decode([Row(0, position, fresh, 1)])
        position += len(fresh)
        fresh = [int(logits[0].argmax())]
        answer += fresh
    return answer


def test_a_model_guesses_itself(target: Runner, model: DraftModel) -> None:
    prompt = target.tokenize("1, 2, 3, 4, 5, 6, 7,")
    answer = greedy(target, prompt, 24)
    drafter = model.drafter()
    held = 0
    for written in range(0, 20, 4):
        guess = drafter.draft(prompt + answer[:written], 4)
        assert len(guess) == 4
        held += sum(a == b for a, b in zip(guess, answer[written:], strict=False))
    assert held == 20
    drafter.close()


def test_a_wrong_guess_is_taken_back(target: Runner, model: DraftModel) -> None:
    days = target.tokenize("Monday, Tuesday, Wednesday,")
    numbers = target.tokenize("1, 2, 3, 4, 5, 6, 7,")
    drafter = model.drafter()
    expected = drafter.draft(days, 6)
    assert expected == greedy(target, days, 6)
    # The answer went another way than was guessed, then back to where it was.
    other = drafter.draft([*days, numbers[-2], *numbers[1:]], 6)
    assert other != expected
    assert drafter.draft(days, 6) == expected
    assert drafter.draft(days, 2) == expected[:2]
    drafter.close()


def test_sequences_do_not_disturb_each_other(target: Runner, model: DraftModel) -> None:
    days, numbers = target.tokenize("Monday, Tuesday, Wednesday,"), target.tokenize("1, 2, 3, 4, 5, 6, 7,")
    first, second, third = model.drafter(), model.drafter(), model.drafter()
    one, two = first.draft(days, 4), second.draft(numbers, 4)
    assert third.draft(days, 4) == [], "there are two slots"
    assert first.draft([*days, one[0]], 3) == one[1:]
    assert second.draft([*numbers, two[0]], 3) == two[1:]
    first.close()
    assert third.draft(days, 4) == one
    second.close()
    third.close()


def test_no_guess_where_there_is_no_room(model: DraftModel, target: Runner) -> None:
    tokens = (target.tokenize("word " * CONTEXT))[: CONTEXT - 2]
    drafter = model.drafter()
    assert drafter.draft(tokens, 4) == []
    assert len(drafter.draft(tokens, 2)) <= 2
    assert drafter.draft(tokens, 0) == []
    drafter.close()


def test_another_vocabulary_is_refused(target: Runner, tmp_path: Path) -> None:
    tiny_gguf.bert(tmp_path / "bert.gguf")
    with pytest.raises(EngineError, match=r"bert.gguf cannot guess for this model") as refused:
        DraftModel(str(tmp_path / "bert.gguf"), target, DEVICE, 2, sequences=1, context_tokens=64)
    assert refused.value.code == "bad_model"

"""What an engine keeps, guesses ahead and takes back, on a real model (Gemma 3 270M): none of it changes an answer.

The prompts are ones where greedy decoding has a clear winner at each step, so that it does not matter in which batch
a token was computed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp")

from engines.engine import TokenEngine
from engines.llamacpp.loading import open_model
from engines.protocol import Abort, Generate, Load, Sampling, SchedulerLoad, TokenEvent

pytestmark = pytest.mark.slow

DAYS = "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday, "
LIST = DAYS * 12 + "Monday, Tuesday,"
COUNTS = ["1, 2, 3, 4, 5, 6, 7,", "10, 20, 30, 40, 50,", "A, B, C, D, E, F, G,"]


class Client:
    """Submits greedy requests to an engine and gathers the events of each."""

    def __init__(self, engine: TokenEngine):
        self.engine = engine
        self.events: dict[int, list[TokenEvent]] = {}
        self.load = SchedulerLoad()

    def submit(self, prompt: str, max_tokens: int, **options: Any) -> int:
        id = len(self.events) + 1
        sampling = Sampling(temperature=0.0)
        self.engine.submit(Generate(id, prompt=prompt, sampling=sampling, max_tokens=max_tokens, **options))
        self.events[id] = []
        return id

    def step(self) -> None:
        step = self.engine.step()
        self.load = step.load
        for event in step.events:
            assert not event.error_code, event.error_message
            self.events[event.id].append(event)

    def run(self, *ids: int) -> list[str]:
        while self.engine.busy:
            self.step()
        return ["".join(event.text for event in self.events[id]) for id in ids]

    def ask(self, prompt: str, max_tokens: int, **options: Any) -> str:
        return self.run(self.submit(prompt, max_tokens, **options))[0]

    @property
    def cached_tokens(self) -> int:
        """Of the last request."""
        return self.events[len(self.events)][-1].cached_tokens


@contextmanager
def opened(path: Path, cache_folder: Path | None = None, **settings: Any) -> Iterator[Client]:
    load = Load("llamacpp", str(path), threads=1, settings=settings, cache_folder=str(cache_folder or ""))
    engine = open_model(load)
    assert hasattr(engine, "step")
    try:
        yield Client(engine)
    finally:
        engine.close()


SMALL: dict[str, Any] = {"sequences": 2, "context_tokens": 1024}


@pytest.fixture(scope="module")
def plain(gguf_path: Path) -> Iterator[Client]:
    with opened(gguf_path, **SMALL, prefix_cache_mb=0) as client:
        yield client


@pytest.fixture(scope="module")
def guessing(gguf_path: Path) -> Iterator[Client]:
    with opened(gguf_path, **SMALL, prefix_cache_mb=0, speculative="ngram") as client:
        yield client


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stop": ["Friday, Sat"]},
        {"stop": ["Friday"], "min_tokens": 20},
        {"logprobs": 2},
    ],
    ids=["plain", "stop", "min-tokens", "logprobs"],
)
def test_guesses_change_no_answer(plain: Client, guessing: Client, options: dict[str, Any]) -> None:
    accepted = guessing.load.accepted
    assert guessing.ask(LIST, 48, **options) == plain.ask(LIST, 48, **options)
    assert guessing.load.accepted > accepted
    ours, theirs = guessing.events[len(guessing.events)], plain.events[len(plain.events)]
    assert ours[-1].finish_reason == theirs[-1].finish_reason
    assert sum(event.tokens for event in ours) == sum(event.tokens for event in theirs)
    if "logprobs" in options:
        chosen = [[entry.token for event in events for entry in event.logprobs or ()] for events in (ours, theirs)]
        assert chosen[0] == chosen[1]
        assert len(chosen[0]) == 48


def test_guesses_take_fewer_steps(guessing: Client) -> None:
    id = guessing.submit(LIST, 48)
    guessing.run(id)
    told = [event for event in guessing.events[id] if event.tokens]
    assert sum(event.tokens for event in told) == 48
    assert len(told) < 24


def test_what_was_guessed_wrongly_is_no_prefix(plain: Client, guessing: Client) -> None:
    """An answer that is aborted while guesses are in the memory is continued by the next request."""
    id = guessing.submit(LIST, 48)
    while sum(event.tokens for event in guessing.events[id]) < 20:
        guessing.step()
    guessing.engine.abort(Abort(id))
    begun = "".join(event.text for event in guessing.events[id])
    prompt = LIST + begun + " January, February,"
    assert guessing.ask(prompt, 8) == plain.ask(prompt, 8)
    assert guessing.cached_tokens > len(LIST) // 8


@pytest.mark.parametrize("kv_tokens", [0, 1024], ids=["streams", "unified"])
@pytest.mark.parametrize("repeats", [6, 45], ids=["short", "beyond-the-window"])
def test_prefixes_outlive_an_unload(gguf_path: Path, tmp_path: Path, kv_tokens: int, repeats: int) -> None:
    prompt = DAYS * repeats + "Monday, Tuesday,"
    settings = SMALL | {"kv_tokens": kv_tokens}
    with opened(gguf_path, tmp_path, **settings) as client:
        expected = client.ask(prompt, 12)
        assert client.cached_tokens == 0
        count = client.events[1][-1].prompt_tokens
        assert client.engine.unload().saved_bytes > 0
    with opened(gguf_path, tmp_path, **settings) as client:
        assert client.ask(prompt, 12) == expected
        # Of a state that is longer than the model's window, only multiples of the window can be had.
        assert client.cached_tokens >= (count - 1 if count < 512 else 512)
        assert client.ask(DAYS * repeats + "January, February,", 4) != expected
        assert client.cached_tokens > 0


def test_prefixes_of_other_settings_are_not_taken(gguf_path: Path, tmp_path: Path) -> None:
    with opened(gguf_path, tmp_path, **SMALL) as client:
        client.ask(LIST, 2)
        client.engine.unload()
    with opened(gguf_path, tmp_path, **SMALL, cache_type_k="q8_0") as client:
        client.ask(LIST, 2)
        assert client.cached_tokens == 0


def test_a_preempted_answer_is_the_same(gguf_path: Path, plain: Client) -> None:
    """Three answers of more than 200 tokens do not fit into 512 cells that all share."""
    prompts = [f"{DAYS * 8}{count}" for count in COUNTS]
    alone = [plain.ask(prompt, 60) for prompt in prompts]
    settings: dict[str, Any] = {"sequences": 3, "context_tokens": 512, "kv_tokens": 512}
    with opened(gguf_path, **settings) as client:
        ids = [client.submit(prompt, 60) for prompt in prompts]
        together = client.run(*ids)
        assert client.load.preempted > 0
        assert (client.load.running, client.load.waiting) == (0, 0)
        assert [client.events[id][-1].finish_reason for id in ids] == ["length"] * 3
        assert [sum(event.tokens for event in client.events[id]) for id in ids] == [60] * 3
    assert together == alone

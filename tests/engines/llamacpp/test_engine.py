"""The engine on a real model: Gemma 3 270M (base).

Text of a sequence is compared between different batches. Floating-point sums depend on the shape of a batch, so
two tokens whose logits nearly tie could swap; the prompts here are ones where greedy decoding has a clear winner at
each step.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.device import DEVICE

pytest.importorskip("llama_cpp")

from engines.engine import EngineError
from engines.llamacpp.engine import TextEngine
from engines.llamacpp.loading import open_model
from engines.llamacpp.runner import KvFull, Row, Runner
from engines.llamacpp.settings import Settings
from engines.protocol import Abort, Generate, Load, Sampling, Step, TokenEvent, Tokenize

pytestmark = pytest.mark.slow

GREEDY = Sampling(temperature=0.0)
PROMPTS = [
    "1, 2, 3, 4, 5, 6, 7,",
    "A, B, C, D, E, F, G,",
    "Monday, Tuesday, Wednesday,",
    "January, February, March, April,",
    "10, 20, 30, 40, 50,",
    "2, 4, 6, 8, 10, 12,",
    "one, two, three, four, five,",
    "a b c d e f g h i",
]


@dataclass
class Answer:
    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: str = ""
    error_code: str = ""
    events: list[TokenEvent] = field(default_factory=list)


class Client:
    """Submits to an engine and gathers what its steps say."""

    def __init__(self, engine: TextEngine):
        self.engine = engine
        self.answers: dict[int, Answer] = {}
        self.next_id = 0

    def submit(
        self, prompt: str | list[int] | list[dict[str, Any]], sampling: Sampling = GREEDY, **options: Any
    ) -> int:
        self.next_id += 1
        if isinstance(prompt, str):
            source: dict[str, Any] = {"prompt": prompt}
        else:
            source = {"messages" if isinstance(prompt[0], dict) else "prompt_tokens": prompt}
        self.engine.submit(Generate(self.next_id, **source, sampling=sampling, **options))
        self.answers[self.next_id] = Answer()
        return self.next_id

    def step(self) -> Step:
        step = self.engine.step()
        for event in step.events:
            answer = self.answers[event.id]
            assert not answer.finish_reason and not answer.error_code, "an event after the last one"
            answer.events.append(event)
            answer.text += event.text
            answer.tokens += event.tokens
            answer.finish_reason, answer.error_code = event.finish_reason, event.error_code
            answer.prompt_tokens = max(answer.prompt_tokens, event.prompt_tokens)
            answer.cached_tokens = max(answer.cached_tokens, event.cached_tokens)
        return step

    def run(self, *ids: int) -> list[Answer]:
        while self.engine.busy:
            self.step()
        return [self.answers[id] for id in ids]

    def ask(self, *arguments: Any, **options: Any) -> Answer:
        return self.run(self.submit(*arguments, **options))[0]


def load(path: Path, **settings: Any) -> TextEngine:
    engine = open_model(Load("llamacpp", str(path), DEVICE, settings=settings))
    assert isinstance(engine, TextEngine)
    return engine


@pytest.fixture(scope="module")
def shared_engine(gguf_path: Path) -> Iterator[TextEngine]:
    engine = load(gguf_path)
    yield engine
    engine.close()


@pytest.fixture
def client(shared_engine: TextEngine) -> Iterator[Client]:
    client = Client(shared_engine)
    yield client
    for id in client.answers:
        shared_engine.abort(Abort(id))


def test_ready_says_what_was_loaded(shared_engine: TextEngine) -> None:
    ready = shared_engine.ready
    assert (ready.engine, ready.device) == ("llamacpp", DEVICE)
    assert ready.provider.startswith("CPU : " if DEVICE == "cpu" else "CUDA : ")
    assert ready.threads >= 1
    assert ready.memory_bytes > 250_000_000
    assert ready.language is not None
    assert (ready.language.context_tokens, ready.language.sequences) == (4096, 8)
    assert ready.language.vocabulary == 262_144
    assert ready.language.chat_template == "chatml"
    assert "no chat template" in ready.notes[0]


def test_greedy_equals_a_plain_loop(client: Client, gguf_path: Path) -> None:
    settings = Settings(sequences=1, context_tokens=512, kv_tokens=512, batch_tokens=512)
    runner = Runner(str(gguf_path), DEVICE, 2, settings)
    runner.open_context(settings)
    tokens = runner.tokenize("The capital of France is")
    expected, start, row = [], 0, tokens
    for _ in range(32):
        token = int(runner.decode([Row(0, start, row, 1)])[0].argmax())
        expected.append(token)
        start, row = start + len(row), [token]
    text = b"".join(map(runner.piece, expected)).decode()
    runner.close()

    answer = client.ask("The capital of France is", max_tokens=32, ignore_eos=True)
    assert answer.text == text
    assert (answer.tokens, answer.finish_reason, answer.prompt_tokens) == (32, "length", len(tokens))


def test_eight_together_write_what_each_writes_alone(client: Client) -> None:
    alone = [client.ask(prompt, max_tokens=12).text for prompt in PROMPTS]
    together = [a.text for a in client.run(*(client.submit(prompt, max_tokens=12) for prompt in PROMPTS))]
    assert together == alone
    assert together[0].startswith(" 8, 9, 10")
    assert len(set(together)) == len(PROMPTS)


def test_more_than_the_slots_all_end(client: Client) -> None:
    ids = [client.submit(f"{i}, {i + 1},", max_tokens=4) for i in range(12)]
    step = client.step()
    assert (step.load.running, step.load.waiting) == (8, 4)
    assert {event.id for event in step.events if event.prompt_tokens and not event.tokens} == set(ids)
    assert [a.finish_reason for a in client.run(*ids)] == ["length"] * 12
    assert not client.engine.busy


def test_events_of_one_answer(client: Client) -> None:
    answer = client.ask("1, 2, 3,", max_tokens=5)
    first, *middle, last = answer.events
    assert (first.prompt_tokens > 0, first.tokens, first.text) == (True, 0, "")
    assert all(event.tokens == 1 and not event.finish_reason for event in middle)
    assert (last.finish_reason, last.prompt_tokens) == ("length", first.prompt_tokens)


def test_a_seed_gives_the_same_answer_again(client: Client) -> None:
    def ask(seed: int) -> str:
        return client.ask("Once upon a time", Sampling(temperature=1.0, seed=seed), max_tokens=16).text

    first = ask(42)
    assert ask(42) == first
    assert ask(43) != first


def test_a_seed_is_a_sequence_s_own(client: Client) -> None:
    """Which slot it has and who is beside it changes nothing, as long as the batches have the same shape."""

    def ask(seeds: list[int]) -> dict[int, str]:
        ids = [
            client.submit("Once upon a time", Sampling(seed=seed), max_tokens=12, ignore_eos=True, cache_prompt=False)
            for seed in seeds
        ]
        return dict(zip(seeds, [answer.text for answer in client.run(*ids)], strict=True))

    answers = ask([1, 2, 3, 4])
    assert len(set(answers.values())) > 1
    assert ask([3, 1, 4, 2]) == answers


def test_stop_strings_end_an_answer_and_are_not_shown(client: Client) -> None:
    answer = client.ask(PROMPTS[0], stop=["11"], max_tokens=64)
    assert (answer.text, answer.finish_reason) == (" 8, 9, 10, ", "stop")


def test_min_tokens_looks_past_a_stop_string(client: Client) -> None:
    answer = client.ask(PROMPTS[0], stop=["9"], min_tokens=12, max_tokens=64)
    assert answer.tokens >= 12
    assert answer.text.startswith(" 8, 9, 10, 11")


def test_chatml_markers_end_a_chat(client: Client) -> None:
    """The base model does not know them as tokens; what it was shown, it repeats as text."""
    answer = client.ask([{"role": "user", "content": "Hi"}], max_tokens=200)
    assert "<|im_" not in answer.text
    tokens = client.engine.tokenize(Tokenize(0, messages=[{"role": "user", "content": "Hi"}])).tokens
    assert answer.prompt_tokens == len(tokens)


def test_ignore_eos_goes_on(client: Client) -> None:
    prompt = "Q: 1+1?\nA: 2<eos>"
    assert client.ask(prompt, max_tokens=40, ignore_eos=True).tokens == 40


def test_max_tokens_zero_only_reads_the_prompt(client: Client) -> None:
    answer = client.ask("1, 2, 3", max_tokens=0)
    assert (answer.text, answer.tokens, answer.finish_reason) == ("", 0, "length")


def test_an_abort_frees_the_slot_within_a_step(client: Client) -> None:
    ids = [client.submit(prompt, max_tokens=500, ignore_eos=True) for prompt in PROMPTS]
    waiting = client.submit("Red, green,", max_tokens=3)
    assert client.step().load.waiting == 1
    client.engine.abort(Abort(ids[3]))
    step = client.step()
    assert (step.load.running, step.load.waiting) == (8, 0)
    assert ids[3] not in {event.id for event in step.events}
    assert waiting in {event.id for event in step.events if event.tokens}
    client.engine.abort(Abort(12345))


def test_a_long_prompt_does_not_stop_running_streams(client: Client) -> None:
    streams = [client.submit(prompt, max_tokens=200, ignore_eos=True) for prompt in PROMPTS[:4]]
    client.step()
    text = "the cat sat on the mat and looked at the sea " * 200
    words = client.engine.tokenize(Tokenize(0, text=text)).tokens[:2000]
    assert len(words) == 2000
    long = client.submit(words, max_tokens=2, cache_prompt=False)
    steps = 0
    while not client.answers[long].tokens:
        step = client.step()
        assert {event.id for event in step.events if event.tokens} >= set(streams)
        steps += 1
    assert steps == -(-2000 // (256 - 4))  # 256 tokens a step, 4 of them for the streams


def test_the_next_turn_reuses_the_last_one(client: Client) -> None:
    story = "The quick brown fox jumps over the lazy dog. " * 10
    first = client.ask(story, max_tokens=8)
    turn = client.submit(story + first.text + " And then", max_tokens=8)
    again = client.run(turn)[0]
    assert again.cached_tokens >= first.prompt_tokens - 1
    fresh = client.ask(story + first.text + " And then", max_tokens=8, cache_prompt=False)
    assert fresh.cached_tokens == 0
    assert fresh.text == again.text


def test_a_prefix_is_shared_with_a_running_sequence(client: Client) -> None:
    system = "You count in steps of one and never stop. " * 10
    running = client.submit(system + "1, 2, 3,", max_tokens=30, ignore_eos=True)
    while not client.answers[running].tokens:
        client.step()
    other = client.submit(system + "5, 6, 7,", max_tokens=6)
    client.run()
    assert client.answers[other].cached_tokens > 80
    assert client.answers[other].text.startswith(" 8, 9")
    # The source is untouched: it wrote what it writes when nobody shares with it.
    assert (
        client.answers[running].text
        == client.ask(system + "1, 2, 3,", max_tokens=30, ignore_eos=True, cache_prompt=False).text
    )


def test_a_prompt_beyond_the_context_is_refused(client: Client) -> None:
    with pytest.raises(EngineError, match="5000 tokens; the context is 4096") as caught:
        client.submit([5] * 5000)
    assert (caught.value.code, caught.value.field) == ("context_exceeded", "prompt_tokens")
    assert not client.engine.busy


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Generate(1, prompt=""), "prompt"),
        (Generate(1, prompt_tokens=[]), "prompt_tokens"),
        (Generate(1, prompt_tokens=[262_144]), "prompt_tokens"),
        (Generate(1, messages=[]), "messages"),
        (Generate(1), "prompt"),
        (Generate(1, prompt="a", prompt_tokens=[1]), "prompt"),
        (Generate(1, prompt="a", stop=[""]), "stop"),
        (Generate(1, prompt="a", max_tokens=-2), "max_tokens"),
    ],
)
def test_requests_that_make_no_sense_name_the_field(
    shared_engine: TextEngine, request_: Generate, field: str
) -> None:
    with pytest.raises(EngineError) as caught:
        shared_engine.submit(request_)
    assert (caught.value.code, caught.value.field) == ("invalid_input", field)
    assert not shared_engine.busy


def test_a_failed_decode_ends_its_sequences_and_the_engine_goes_on(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(rows: object) -> None:
        raise EngineError("engine_failed", "llama_decode answered -3")

    failed = client.submit("1, 2, 3,", max_tokens=5)
    with monkeypatch.context() as patch:
        patch.setattr(client.engine._runner, "decode", broken)
        client.step()
    assert client.answers[failed].error_code == "engine_failed"
    assert client.ask(PROMPTS[0], max_tokens=3).text == " 8,"


def test_a_decode_without_room_preempts_the_youngest(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = client.engine._runner.decode

    def full_for_two(rows: Any) -> Any:
        rows = list(rows)
        if len(rows) > 1:
            raise KvFull
        return decode(rows)

    monkeypatch.setattr(client.engine._runner, "decode", full_for_two)
    ids = [client.submit(prompt, max_tokens=5) for prompt in PROMPTS[:2]]
    answers = client.run(*ids)
    assert [answer.finish_reason for answer in answers] == ["length", "length"]
    assert answers[0].text.startswith(" 8, 9")


def test_a_small_context_and_memory_under_pressure(gguf_path: Path) -> None:
    engine = load(gguf_path, sequences=4, context_tokens=256, kv_tokens=256, queue_limit=4)
    try:
        client = Client(engine)
        alone = [client.ask(prompt, max_tokens=90, ignore_eos=True).text for prompt in PROMPTS[:2]]
        ids = [client.submit(PROMPTS[i % 2], max_tokens=90, ignore_eos=True) for i in range(4)]
        with pytest.raises(EngineError) as caught:
            client.submit("x")
        assert caught.value.code == "queue_full"
        answers = client.run(*ids)
        assert [answer.tokens for answer in answers] == [90] * 4
        assert [answer.text[:40] for answer in answers] == [alone[i % 2][:40] for i in range(4)]
        endless = client.ask(PROMPTS[0], ignore_eos=True)
        assert (endless.finish_reason, endless.tokens + endless.prompt_tokens) == ("length", 256)
    finally:
        engine.close()


def test_a_truncated_file_is_a_bad_model(gguf_path: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    with gguf_path.open("rb") as whole:
        cut.write_bytes(whole.read(40_000_000))
    with pytest.raises(EngineError, match=r"cut\.gguf.*(corrupted|incomplete|bounds)") as caught:
        load(cut)
    assert caught.value.code == "bad_model"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(100), b"GGUF" + bytes(range(256)) * 10])
def test_a_file_that_is_no_model_is_a_bad_model(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"model\.gguf") as caught:
        load(path)
    assert caught.value.code == "bad_model"


def test_a_missing_file_is_a_bad_model(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be read") as caught:
        load(tmp_path / "none.gguf")
    assert caught.value.code == "bad_model"


def test_a_device_that_is_not_there_is_an_error(gguf_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        open_model(Load("llamacpp", str(gguf_path), device="cuda:7"))
    assert caught.value.code == "device_unavailable"

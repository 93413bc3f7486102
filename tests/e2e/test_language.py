"""A real language model over HTTP, with the `openai` package."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest

from tests.support.daemon import serving, until

pytestmark = pytest.mark.slow
MODEL = "gemma"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, gguf_path):
    with serving(tmp_path_factory.mktemp("language") / "data", gguf_path, MODEL) as running:
        yield running


@pytest.fixture(scope="module")
def client(daemon):
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none") as made:
        yield made


def test_the_deployment_says_that_chatml_stands_in(daemon):
    state = daemon.get(f"/manage/v1/deployments/{MODEL}")
    assert state["chat_template"] == "chatml"
    assert any("ChatML" in note for note in state["notes"])
    assert state["sequences"] == 8


def test_a_chat_streams(client):
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Count: one two three"}],
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(pieces) > 10
    assert chunks[-1].usage.completion_tokens == 24
    assert chunks[-2].choices[0].finish_reason == "length"


def test_streamed_and_whole_answers_are_the_same_text(client):
    ask = {"model": MODEL, "prompt": "The three primary colours are", "max_tokens": 20, "temperature": 0}
    whole = client.completions.create(**ask).choices[0].text
    streamed = "".join(chunk.choices[0].text for chunk in client.completions.create(stream=True, **ask))
    assert streamed == whole
    assert whole.strip()


def test_a_seed_reproduces_and_another_differs(client):
    def ask(seed):
        answer = client.completions.create(
            model=MODEL, prompt="Once upon a time", max_tokens=24, temperature=1.2, seed=seed
        )
        return answer.choices[0].text

    assert ask(7) == ask(7)
    assert ask(7) != ask(8)


def test_a_stop_text_ends_the_answer_and_is_not_in_it(client):
    ask = {"model": MODEL, "prompt": "1, 2, 3, 4, 5,", "temperature": 0, "max_tokens": 40}
    answer = client.completions.create(stop=[" 9"], **ask)
    assert answer.choices[0].finish_reason == "stop"
    assert "8" in answer.choices[0].text
    assert "9" not in answer.choices[0].text


def test_eight_streams_interleave(client):
    """Each of eight streams has begun before any of them has ended."""
    first, last = {}, {}
    barrier = threading.Barrier(8)

    def run(number):
        barrier.wait()
        stream = client.completions.create(
            model=MODEL, prompt=f"Story number {number}:", max_tokens=48, stream=True, extra_body={"ignore_eos": True}
        )
        for _ in stream:
            first.setdefault(number, time.monotonic())
            last[number] = time.monotonic()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))
    assert len(first) == 8
    assert max(first.values()) < min(last.values())


def test_a_prompt_beyond_the_context_is_a_clear_400_streaming_or_not(client, daemon):
    context = daemon.get(f"/manage/v1/deployments/{MODEL}")["context_tokens"]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model=MODEL, prompt="word " * (context + 10), stream=stream)
        assert caught.value.code == "context_length_exceeded"
        assert str(context) in caught.value.message


def test_bad_input_names_the_field(client):
    for change, field in (
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"temperature": "hot"}, "temperature"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model=MODEL, prompt="x", **change)
        assert caught.value.param == field
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="nobody", prompt="x")


def test_the_second_turn_of_a_conversation_reuses_the_first(client):
    story = "Tell me about ships. " * 40
    messages = [{"role": "user", "content": story}]
    ask = {"model": MODEL, "max_tokens": 8, "temperature": 0}
    client.chat.completions.create(messages=messages, **ask)
    again = client.chat.completions.create(messages=[*messages, {"role": "user", "content": "More."}], **ask)
    assert again.usage.prompt_tokens_details.cached_tokens > 100


def test_a_client_that_hangs_up_frees_its_slot(client, daemon):
    stream = client.completions.create(
        model=MODEL, prompt="Forever:", max_tokens=3000, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    text = until(
        lambda: (
            (page := daemon.http.get("/metrics").text)
            and 'vllm:num_requests_running{model_name="gemma"' in page
            and page
        )
    )
    until(lambda: 'running{model_name="gemma",engine="llamacpp"} 0' in daemon.http.get("/metrics").text)
    assert "vllm:time_to_first_token_seconds_bucket" in text


def test_a_language_model_is_listed_and_refuses_tensors(client, daemon):
    assert [model.id for model in client.models.list()] == [MODEL]
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}
    assert daemon.http.post(f"/v2/models/{MODEL}/infer", json=body).status_code == 400


def test_tokens_per_second_are_watched(client, daemon):
    client.completions.create(model=MODEL, prompt="Numbers:", max_tokens=30, extra_body={"ignore_eos": True})
    sample = daemon.wait("metrics", MODEL, lambda s: s["ttft_p50_ms"] is not None)
    assert sample["itl_p50_ms"] > 0


def test_a_truncated_gguf_is_refused(daemon, gguf_path, tmp_path):
    path = tmp_path / "cut.gguf"
    with gguf_path.open("rb") as whole:
        path.write_bytes(whole.read(5_000_000))
    job = daemon.job(kind="download", ref=f"file:{path}")
    if job["state"] == "succeeded":
        assert daemon.deploy("cut")["error"]["code"] == "bad_model"
    else:
        assert job["error"]["code"] == "bad_model"
    assert httpx2.get(f"{daemon.url}/health/ready").status_code == 200

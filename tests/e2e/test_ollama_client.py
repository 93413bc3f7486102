"""The official `ollama` package against a real daemon with a real language model, on Ollama's own kind of port."""

import json
import socket
from datetime import UTC, datetime, timedelta

import httpx2
import ollama
import pytest

from app.paths import resource
from tests.support.daemon import RunningDaemon
from tests.support.hub import publish
from tests.support.range_server import RangeServer

MODEL = "gemma"
#: What one answer of the real model may cost in a test.
SHORT = {"num_predict": 8, "temperature": 0, "num_ctx": 1024}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def asking(model=MODEL, text="Count: one two three", **more):
    return {"model": model, "messages": [{"role": "user", "content": text}], "options": SHORT, **more}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, gguf_path):
    """Nothing is deployed: the first request does that."""
    data_dir, port = tmp_path_factory.mktemp("ollama") / "data", free_port()
    with RunningDaemon(data_dir, PILOTHOUSE_OLLAMA_PORT=str(port)) as running:
        running.ollama_url = f"http://127.0.0.1:{port}"
        running.pull(f"file:{gguf_path}", name=MODEL)
        yield running


@pytest.fixture(scope="module")
def client(daemon):
    with ollama.Client(daemon.ollama_url) as made:
        yield made


# --- with the real model -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_first_chat_loads_the_model_and_the_next_does_not(client):
    first = client.chat(**asking())
    assert first.message.role == "assistant" and first.message.content
    assert first.done
    again = client.chat(**asking())
    assert again.message.content == first.message.content
    assert first.load_duration > 10 * again.load_duration
    for answer in (first, again):
        assert 1 <= answer.eval_count <= 8 and answer.prompt_eval_count > 5
        assert answer.done_reason in ("stop", "length")
        parts = answer.load_duration + answer.prompt_eval_duration + answer.eval_duration
        assert 0 < parts <= answer.total_duration


@pytest.mark.slow
def test_a_chat_streams_the_same_words(client):
    pieces = list(client.chat(**asking(), stream=True))
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    whole = client.chat(**asking())
    assert "".join(piece.message.content for piece in pieces) == whole.message.content
    assert pieces[-1].eval_count == whole.eval_count
    created = [datetime.fromisoformat(piece.created_at) for piece in pieces]
    assert created == sorted(created)


@pytest.mark.slow
async def test_the_asynchronous_client_streams(daemon):
    async with ollama.AsyncClient(daemon.ollama_url) as client:
        pieces = [piece async for piece in await client.chat(**asking(), stream=True)]
    assert pieces[-1].done and "".join(piece.message.content for piece in pieces)


@pytest.mark.slow
def test_generate_raw_continues_a_text_and_reports_log_probabilities(client):
    ask = {"model": MODEL, "prompt": "1, 2, 3, 4, 5,", "raw": True, "options": SHORT}
    whole = client.generate(**ask, logprobs=True, top_logprobs=2)
    assert "6" in whole.response and whole.context is None
    assert (whole.done_reason, whole.eval_count) == ("length", 8)
    assert len(whole.logprobs) == whole.eval_count
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in whole.logprobs)
    best = whole.logprobs[0]
    assert best.token == best.top_logprobs[0].token  # greedy
    assert "".join(piece.response for piece in client.generate(**ask, stream=True)) == whole.response


@pytest.mark.slow
def test_a_stop_text_ends_the_answer(client):
    options = {**SHORT, "num_predict": 40, "stop": [" 8"]}
    answer = client.generate(model=MODEL, prompt="1, 2, 3, 4, 5,", raw=True, options=options)
    assert (answer.done_reason, "7" in answer.response, "8" in answer.response) == ("stop", True, False)


@pytest.mark.slow
def test_the_context_of_an_answer_can_be_given_back(client):
    first = client.generate(MODEL, "Tell me a long story about a ship.", options=SHORT)
    assert len(first.context) > first.prompt_eval_count
    second = client.generate(MODEL, "Go on.", context=first.context, options=SHORT)
    assert second.context[: len(first.context)] == first.context
    assert second.prompt_eval_count > len(first.context)


@pytest.mark.slow
def test_a_schema_is_kept(client):
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    options = {**SHORT, "num_predict": 60}
    answer = client.chat(**asking(text="How old are you? Answer in JSON.", format=schema) | {"options": options})
    assert isinstance(json.loads(answer.message.content)["age"], int)


@pytest.mark.slow
def test_texts_are_embedded(client):
    answer = client.embed(MODEL, ["The cat sat on the mat.", "A cat is on a mat.", "Interest rates rose."])
    near, far = (
        sum(a * b for a, b in zip(answer.embeddings[0], answer.embeddings[other], strict=True)) for other in (1, 2)
    )
    assert len(answer.embeddings[0]) == 640 and near > far
    assert answer.prompt_eval_count > 10
    assert len(client.embed(MODEL, "short", dimensions=64).embeddings[0]) == 64
    old = client.embeddings(MODEL, "The cat sat on the mat.")
    assert list(old.embedding) == pytest.approx(list(answer.embeddings[0]), abs=0.02)


@pytest.mark.slow
def test_the_model_is_described(client):
    [entry] = client.list().models
    assert (entry.model, entry.size) == (f"{MODEL}:latest", 253_113_024)
    assert (entry.details.family, entry.details.parameter_size) == ("gemma3", "268.10M")
    assert entry.details.quantization_level == "Q4_K_M"
    shown = client.show(MODEL)
    assert shown.modelinfo["gemma3.context_length"] == 32_768
    assert shown.modelinfo["general.parameter_count"] == 268_098_176
    assert "completion" in shown.capabilities
    assert shown.parameters.split() == ["num_ctx", "1024"]
    assert shown.template


@pytest.mark.slow
def test_what_runs_is_told_with_the_moment_of_its_end(client):
    client.chat(**asking(), keep_alive="10m")
    [entry] = client.ps().models
    assert (entry.model, entry.size_vram, entry.context_length) == (f"{MODEL}:latest", 0, 1024)
    assert entry.size > 100_000_000
    assert timedelta(minutes=9) < entry.expires_at - datetime.now(UTC) < timedelta(minutes=11)


@pytest.mark.slow
def test_a_prompt_beyond_the_context_is_an_error_and_never_cut(client):
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError) as caught:
            list(client.chat(**asking(text="word " * 1100), stream=stream))
        assert caught.value.status_code == 400 and "1024" in caught.value.error


@pytest.mark.slow
def test_more_context_is_loaded_when_it_is_asked_for_and_the_model_goes_when_told(client, daemon):
    answer = client.chat(**asking(text="word " * 1100) | {"options": {**SHORT, "num_ctx": 2048}})
    assert answer.prompt_eval_count > 1100
    assert client.ps().models[0].context_length == 2048
    assert client.generate(MODEL, keep_alive=0).done_reason == "unload"
    assert client.ps().models == []
    assert daemon.get("/manage/v1/deployments")["items"] == []
    assert daemon.workers() == []


# --- with the echo engine, for what a base model does not do -----------------------------------------------


@pytest.fixture
def echo(tmp_path, echo_model):
    with RunningDaemon(tmp_path / "data") as daemon:
        daemon.pull(echo_model(kind="language"), name="echo")
        with ollama.Client(daemon.url) as client:
            client.daemon = daemon
            yield client


def test_tools_are_called_and_their_answers_understood(echo):
    def add(a: int, b: int) -> int:
        """Adds.

        Args:
            a: one
            b: other
        """
        return a + b

    messages = [{"role": "user", "content": "call seven"}]
    answer = echo.chat("echo", messages, tools=[add], think=False)
    [call] = answer.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("add", {"word": "seven"})
    messages += [answer.message, {"role": "tool", "tool_name": "add", "content": "42"}]
    assert echo.chat("echo", messages, tools=[add], think=False).message.tool_calls
    streamed = [piece.message.tool_calls for piece in echo.chat("echo", messages[:1], tools=[add], stream=True)]
    assert [call.function.arguments for calls in streamed if calls for call in calls] == [{"word": "seven"}]


def test_thinking_and_images_pass_through(echo, tmp_path):
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"12345")
    message = {"role": "user", "content": "look", "images": [str(picture)]}
    answer = echo.chat("echo", [message], think=True)
    assert (answer.message.thinking, answer.message.content) == ("I repeat.", "look image:5 ")
    assert echo.generate("echo", "look", images=[picture], think=False).response == "look image:5 "


def test_a_temporary_deployment_ends_with_the_daemon_unless_it_is_declared(echo):
    daemon = echo.daemon
    echo.generate("echo")
    assert daemon.get("/manage/v1/deployments/echo")["temporary"]
    daemon.stop()
    daemon.start()
    assert daemon.get("/manage/v1/deployments")["items"] == []
    with ollama.Client(daemon.url) as client:
        client.generate("echo")
        pid = daemon.get("/manage/v1/deployments/echo")["replicas"][0]["pid"]
        state = daemon.deploy("echo")
        assert (state["temporary"], state["replicas"][0]["pid"]) == (False, pid)
        assert client.generate("echo", keep_alive=0).done_reason == "load"
    daemon.kill()
    daemon.start()
    assert daemon.wait("deployment", "echo", lambda state: state["state"] == "ready")["temporary"] is False


def test_a_client_that_leaves_frees_the_model(echo):
    daemon = echo.daemon
    daemon.put("/manage/v1/deployments/slow", {"model": "echo", "settings": {"delay_ms": 20}})
    daemon.wait("deployment", "slow", lambda state: state["state"] == "ready")
    pieces = echo.chat("slow", [{"role": "user", "content": "word " * 400}], stream=True, think=False)
    next(pieces)
    pieces.close()
    daemon.wait("metrics", "slow", lambda sample: sample["in_flight"] == 0 and sample["errors_total"] == 1)


def test_a_pull_tells_how_far_it_is_and_goes_on_when_the_client_leaves(tmp_path):
    content = resource("digits/digits.onnx").read_bytes()
    with (
        RangeServer(budget_bytes=len(content) // 2) as server,
        RunningDaemon(tmp_path / "data", HF_ENDPOINT=server.url, HF_HUB_OFFLINE="0") as daemon,
        ollama.Client(daemon.url) as client,
    ):
        publish(server, "someone/numbers", {"model.onnx": content})
        pieces = client.pull("hf:someone/numbers", stream=True)
        seen = next(piece for piece in pieces if piece.total)
        assert seen.total == len(content) and (seen.completed or 0) < seen.total
        assert seen.digest.startswith("sha256:") and seen.status == f"pulling {seen.digest[7:19]}"
        pieces.close()
        [job] = daemon.get("/manage/v1/jobs")["items"]
        assert job["state"] == "running"
        again = client.pull("hf:someone/numbers", stream=True)
        assert next(again).status == "pulling manifest"
        server.release()
        last = list(again)
        assert last[-1].status == "success"
        assert daemon.get("/manage/v1/models/numbers")["size_bytes"] == len(content)
        assert len(daemon.get("/manage/v1/jobs")["items"]) == 1
        assert client.pull("hf:someone/numbers").status == "success"
        with pytest.raises(ollama.ResponseError) as caught:
            client.pull("hf:someone/nothing")
        assert caught.value.status_code == 502
        with pytest.raises(ollama.ResponseError, match="nothing"):
            list(client.pull("hf:someone/nothing", stream=True))


def test_every_other_endpoint_of_the_package_answers_or_says_why_not(echo, tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(b"bytes")
    for call in (
        lambda: echo.copy("echo", "other"),
        lambda: echo.create("new", from_="echo"),
        lambda: echo.push("echo"),
        lambda: echo.create_blob(path),
    ):
        with pytest.raises(ollama.ResponseError) as caught:
            call()
        assert caught.value.status_code == 400 and "; " in caught.value.error
    assert [entry.model for entry in echo.list().models] == ["echo:latest"]
    assert echo.delete("echo").status == "success"
    with pytest.raises(ollama.ResponseError) as caught:
        echo.delete("echo")
    assert caught.value.status_code == 404
    assert echo.list().models == []


def test_a_taken_port_is_a_note_and_the_rest_serves(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with RunningDaemon(tmp_path / "data", PILOTHOUSE_OLLAMA_PORT=str(port)) as daemon:
            info = daemon.wait("daemon", "info", lambda info: True)
            [note] = info["notes"]
            assert str(port) in note and info["ollama_url"] is None
            assert note in (daemon.data_dir / "stderr.txt").read_text()
            assert daemon.http.get("/").text == "Ollama is running"
    port = free_port()
    with RunningDaemon(tmp_path / "data", PILOTHOUSE_OLLAMA_PORT=str(port)) as daemon:
        info = daemon.wait("daemon", "info", lambda info: True)
        assert (info["notes"], info["ollama_url"]) == ([], f"http://127.0.0.1:{port}")
        assert httpx2.get(f"{info['ollama_url']}/health/ready").status_code == 200
        head = httpx2.head(info["ollama_url"])
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "17")

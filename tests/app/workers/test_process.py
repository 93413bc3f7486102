"""The process edge, with real worker processes and the echo engine."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from app.dataplane.tensors import Tensor, views, whole
from app.errors import ContextExceeded, EngineFailed, InvalidInput, PilothouseError, ReplicaLost
from app.workers import process
from app.workers.process import WorkerProcess, classify
from app.workers.runtimes import Interpreter
from engines.protocol import Generate, Load

HERE = Interpreter(runtime="environment", python=Path(sys.executable), env={}, version="test")


@pytest.fixture
def echo(tmp_path):
    """A path to an echo model that behaves as told."""

    def write(**behaviour):
        path = tmp_path / "model.json"
        path.write_text(json.dumps({"kind": "tensor"} | behaviour))
        return Load(engine="echo", path=str(path))

    return write


@pytest.fixture
async def start():
    started = []

    async def start(load, timeout_s=30):
        worker = WorkerProcess()
        started.append(worker)
        await worker.start(HERE, load, timeout_s)
        return worker

    yield start
    for worker in started:
        await worker.stop()


async def ask(worker, *values):
    data = np.array([values], np.float32)
    headers, parts = whole([Tensor("input", "FP32", list(data.shape), data.tobytes())])
    answered = asyncio.get_running_loop().create_future()
    worker.client.infer(headers, parts, [], answered.set_result)
    answer = await answered
    if isinstance(answer, PilothouseError):
        raise answer
    message, payload = answer
    return np.frombuffer(views(message.outputs, payload)[0].data, np.float32).tolist()


async def test_a_worker_loads_answers_and_ends_when_told(start, echo):
    worker = await start(echo())
    assert worker.ready.signature.inputs[0].name == "input"
    assert await ask(worker, 1, 2, 3) == [1, 2, 3]
    pid = worker.pid
    await worker.stop()
    assert not psutil.pid_exists(pid)


async def test_tensors_far_larger_than_a_socket_buffer_come_back_whole(start, echo):
    worker = await start(echo())
    values = np.arange(3_000_000, dtype=np.float32)
    assert await ask(worker, *values.tolist()) == values.tolist()


@pytest.mark.parametrize("code", ["bad_model", "out_of_memory", "device_unavailable"])
async def test_a_load_that_fails_says_why(start, echo, code):
    with pytest.raises(EngineFailed) as caught:
        await start(echo(load_error=code))
    assert caught.value.code == code
    assert caught.value.hint


async def test_a_file_that_is_no_model_is_named(start, tmp_path):
    path = tmp_path / "noise.json"
    path.write_bytes(os.urandom(100))
    with pytest.raises(EngineFailed, match=r"noise\.json") as caught:
        await start(Load(engine="echo", path=str(path)))
    assert caught.value.code == "bad_model"


async def test_a_crash_while_loading_is_told_with_its_last_words(start, echo):
    with pytest.raises(EngineFailed, match="asked to crash while loading") as caught:
        await start(echo(load_crash=True))
    assert caught.value.code == "crash"


async def test_a_load_that_hangs_is_ended(start, echo):
    with pytest.raises(EngineFailed) as caught:
        await start(echo(load_delay_ms=60_000), timeout_s=0.5)
    assert caught.value.code == "start_timeout"


async def test_a_crash_fails_what_runs_and_is_classified(start, echo):
    worker = await start(echo(crash_on=13))
    with pytest.raises(ReplicaLost):
        await ask(worker, 13)
    await worker.ended.wait()
    assert worker.problem().code == "crash"
    assert "asked to crash on 13" in worker.problem().message
    with pytest.raises(ReplicaLost):
        await ask(worker, 1)


async def test_a_refused_request_leaves_the_worker_alive(start, echo):
    worker = await start(echo(error_on=7))
    with pytest.raises(InvalidInput):
        await ask(worker, 7)
    assert await ask(worker, 8) == [8]


async def test_a_worker_ends_when_its_standard_input_closes_even_while_it_computes(start, echo):
    worker = await start(echo(delay_ms=60_000))
    running = asyncio.ensure_future(ask(worker, 1))
    await asyncio.sleep(0)
    worker._process.stdin.close()
    async with asyncio.timeout(5):
        await worker.ended.wait()
    with pytest.raises(ReplicaLost):
        await running


async def test_an_endless_line_on_standard_error_hides_nothing(start, echo):
    worker = await start(echo(shout_mb=3, crash_on=13))
    with pytest.raises(ReplicaLost):
        await ask(worker, 13)
    async with asyncio.timeout(10):
        await worker.ended.wait()
    assert worker.problem().code == "crash"


async def test_the_secret_is_not_in_the_arguments_nor_left_in_the_environment_of_the_engine(start, echo):
    worker = await start(echo())
    assert not any(len(argument) >= 32 for argument in psutil.Process(worker.pid).cmdline()[1:])


async def test_words_stream_and_the_last_event_says_why_it_ended(start, echo):
    worker = await start(echo(kind="language"))
    stream = worker.client.generate(Generate(0, prompt="one two three"))
    events = [event async for event in stream]
    assert events[0].prompt_tokens == 3
    assert "".join(event.text for event in events).split() == ["one", "two", "three"]
    assert events[-1].finish_reason == "stop"


async def test_closing_a_stream_frees_its_sequence(start, echo):
    worker = await start(echo(kind="language", delay_ms=5))
    stream = worker.client.generate(Generate(0, prompt="word " * 200))
    await anext(stream)
    stream.close()
    other = worker.client.generate(Generate(0, prompt="a"))
    assert [event.text async for event in other if event.text] == ["a "]
    assert worker.client.load.running == 0


async def test_a_prompt_beyond_the_context_is_refused(start, echo):
    worker = await start(echo(kind="language", context_tokens=4))
    with pytest.raises(ContextExceeded, match=r"5 tokens.*4"):
        await anext(worker.client.generate(Generate(0, prompt="a b c d e")))


async def test_a_killed_worker_fails_its_streams(start, echo):
    worker = await start(echo(kind="language", delay_ms=20))
    stream = worker.client.generate(Generate(0, prompt="word " * 400))
    await anext(stream)
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(ReplicaLost):
        async for _ in stream:
            pass


@pytest.mark.parametrize(
    ("exit_code", "stderr", "code"),
    [
        (1, ["terminate called after throwing an instance of 'std::bad_alloc'"], "out_of_memory"),
        (1, ["CUDA error: out of memory"], "out_of_memory"),
        (
            127,
            ["error while loading shared libraries: libcudnn.so.9: cannot open shared object file"],
            "missing_library",
        ),
        (1, ["gguf_init_from_file: invalid magic characters"], "bad_model"),
        (-11, ["Segmentation fault"], "crash"),
        (-9, [], "crash"),
    ],
)
def test_the_end_of_a_worker_is_classified(exit_code, stderr, code):
    problem = classify(exit_code, stderr)
    assert problem.code == code
    assert problem.hint


# --- unloading -----------------------------------------------------------------------------------------------


@pytest.fixture
def talker(echo, tmp_path):
    """An echo language model that may leave something in ``tmp_path / "cache"``."""
    (tmp_path / "cache").mkdir()

    def write(**behaviour):
        load = echo(kind="language", **behaviour)
        load.cache_folder = str(tmp_path / "cache")
        return load

    return write


async def test_a_language_model_saves_before_it_ends(start, talker, tmp_path):
    worker = await start(talker(unload_delay_ms=50))
    async for _ in worker.client.generate(Generate(0, prompt="keep this")):
        pass
    await worker.stop()
    assert (tmp_path / "cache" / "said").read_text() == "keep this"
    assert not psutil.pid_exists(worker.pid)


@pytest.mark.parametrize("behaviour", [{"unload_crash": True}, {"unload_error": "engine_failed"}])
async def test_a_worker_that_fails_to_unload_is_not_waited_for(start, talker, tmp_path, behaviour):
    worker = await start(talker(**behaviour))
    async with asyncio.timeout(process.UNLOAD_S / 2):
        await worker.stop()
    assert not psutil.pid_exists(worker.pid)
    assert not (tmp_path / "cache" / "said").exists()


async def test_a_worker_that_unloads_for_ever_is_ended(start, talker, monkeypatch):
    monkeypatch.setattr(process, "UNLOAD_S", 0.2)
    worker = await start(talker(unload_delay_ms=60_000))
    async with asyncio.timeout(5):
        await worker.stop()
    assert not psutil.pid_exists(worker.pid)


async def test_a_dead_worker_is_not_asked_to_unload(start, talker):
    worker = await start(talker())
    worker.kill()
    await worker.ended.wait()
    async with asyncio.timeout(process.UNLOAD_S / 2):
        await worker.stop()

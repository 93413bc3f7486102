"""What is killed, and what is broken on purpose."""

import contextlib
import hashlib
import json
import os
import signal
import threading

import httpx2
import psutil
import pytest

from tests.support.daemon import gone_within, until
from tests.support.range_server import RangeServer

BODY = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}


class Load:
    """A bounded number of requests from several threads; every answer is kept."""

    def __init__(self, url, route, clients=8):
        self.statuses = []
        self._stop = threading.Event()
        self._url = f"{url}/v2/models/{route}/infer"
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self):
        with httpx2.Client(timeout=30) as http:
            for _ in range(5000):
                if self._stop.is_set():
                    return
                self.statuses.append(http.post(self._url, json=BODY).status_code)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_killed_worker_fails_only_what_was_in_it_and_comes_back(daemon, echo_model):
    daemon.pull(echo_model(delay_ms=5))
    before = daemon.deploy("echo", settings={"max_batch_size": 2})
    worker = before["replicas"][0]["pid"]
    with Load(daemon.url, "echo") as load:
        until(lambda: len(load.statuses) > 50)
        os.kill(worker, signal.SIGKILL)
        after = daemon.wait(
            "deployment", "echo", lambda d: d["state"] == "ready" and d["replicas"][0]["pid"] not in (worker, None)
        )
        count = len(load.statuses)
        until(lambda: len(load.statuses) > count + 50)
    assert set(load.statuses) <= {200, 503}
    assert load.statuses.count(503) <= 2  # one batch of at most two requests was in it
    assert load.statuses[-20:] == [200] * 20
    assert after["replicas"][0]["restarts"] == 1


def test_a_killed_daemon_leaves_no_worker_and_brings_everything_back(daemon, echo_model):
    daemon.pull(echo_model())
    daemon.deploy("digits")
    daemon.deploy("echo", "parrot", replicas=2)
    daemon.put("/manage/v1/deployments/resting", {"model": "echo", "stopped": True})
    workers = daemon.workers()
    assert len(workers) == 3
    daemon.kill()
    assert gone_within(workers, 2) == []
    daemon.start()
    for route in ("digits", "parrot"):
        state = daemon.wait("deployment", route, lambda d: d["state"] in ("ready", "failed"))
        assert state["state"] == "ready", state["error"]
    states = {d["route"]: d["state"] for d in daemon.get("/manage/v1/deployments")["items"]}
    assert states == {"digits": "ready", "parrot": "ready", "resting": "stopped"}
    assert daemon.post("/v2/models/parrot/infer", BODY)["outputs"][0]["data"] == [1.0, 2.0]


def test_a_stopped_daemon_ends_its_workers_and_removes_its_file(daemon, echo_model):
    daemon.deploy("digits")
    workers = daemon.workers()
    assert (daemon.data_dir / "daemon.json").exists()
    assert daemon.stop() == 0
    assert gone_within(workers, 2) == []
    assert not (daemon.data_dir / "daemon.json").exists()


@pytest.mark.parametrize("damage", ["truncated", "random", "text"])
def test_a_broken_file_is_an_error_on_the_job_and_the_daemon_goes_on(daemon, tmp_path, damage):
    from app.paths import resource

    whole = resource("digits/digits.onnx").read_bytes()
    content = {"truncated": whole[: len(whole) // 2], "random": os.urandom(5000), "text": b"hello\n" * 500}[damage]
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    job = daemon.job(kind="download", ref=f"file:{path}")
    if job["state"] == "succeeded":  # it looked like a model until an engine read it
        state = daemon.deploy("broken")
        assert state["state"] == "failed"
        error = state["error"]
    else:
        error = job["error"]
    assert error["code"] == "bad_model"
    assert "broken.onnx" in error["message"]
    assert error["hint"]
    assert daemon.get("/health/ready") == {"status": "ready"}


def test_a_model_that_crashes_its_worker_again_and_again_is_given_up(daemon, echo_model):
    daemon.pull(echo_model(load_crash=True))
    state = daemon.deploy("echo")
    assert state["state"] == "failed"
    assert "asked to crash" in state["error"]["message"]
    reply = daemon.http.post("/v2/models/echo/infer", json=BODY)
    assert reply.status_code == 503
    assert "failed" in reply.json()["error"]


def test_a_full_queue_answers_503_on_v2_and_loses_nothing_accepted(daemon, echo_model):
    daemon.pull(echo_model(delay_ms=100))
    daemon.deploy("echo", settings={"max_batch_size": 1, "queue_limit": 2})
    statuses, threads = [], []
    for _ in range(12):
        thread = threading.Thread(
            target=lambda: statuses.append(httpx2.post(f"{daemon.url}/v2/models/echo/infer", json=BODY).status_code)
        )
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 3


def test_undeploying_and_removing(daemon, echo_model):
    daemon.pull(echo_model())
    state = daemon.deploy("echo")
    refusal = daemon.http.delete("/manage/v1/models/echo")
    assert refusal.status_code == 409
    assert "echo" in refusal.json()["error"]["hint"]
    assert daemon.http.delete("/manage/v1/deployments/echo").status_code == 200
    assert not psutil.pid_exists(state["replicas"][0]["pid"])
    assert daemon.http.delete("/manage/v1/models/echo").status_code == 200
    assert daemon.http.get("/manage/v1/models/echo").status_code == 404


def test_a_bad_declaration_names_the_field_and_changes_nothing(daemon):
    def refused(body):
        reply = daemon.http.put("/manage/v1/deployments/digits", json=body)
        assert reply.status_code in (400, 404), reply.text
        return reply.json()["error"]

    assert refused({"model": "digits", "settings": {"nonsense": 1}})["details"]["field"] == "settings.nonsense"
    assert (
        refused({"model": "digits", "settings": {"max_batch_size": 0}})["details"]["field"] == "settings.max_batch_size"
    )
    assert refused({"model": "digits", "replicas": 0})["details"]["field"] == "replicas"
    assert refused({"model": "nobody"})["code"] == "model_not_found"
    assert "modle" in refused({"modle": "digits"})["message"]
    assert daemon.get("/manage/v1/deployments")["items"] == []


def test_an_impossible_device_is_a_failed_deployment_that_says_so(daemon):
    state = daemon.deploy("digits", device="cuda:7")
    assert state["state"] == "failed"
    assert "cuda:7" in state["error"]["message"]


def big_model() -> bytes:
    """A sound ONNX model of 30 MB: y = x + w[0]."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=7_500_000).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["w", "zero"], ["first"]), helper.make_node("Add", ["x", "first"], ["y"])],
        "big",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array(0), "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_a_daemon_killed_in_mid_download_goes_on_with_what_it_has(daemon):
    content = big_model()
    with RangeServer(files={"/big.onnx": content}) as server:
        server.budget_bytes = len(content) // 2
        job = daemon.post("/manage/v1/jobs", {"kind": "download", "ref": f"{server.url}/big.onnx"})
        server.wait_until_spent()
        # What the daemon has noted as safely on the disk, twice a second, it must not fetch again.
        note = daemon.data_dir / "downloads" / job["id"] / "0" / "0.json"
        until(lambda: note.exists() and sum(json.loads(note.read_text())["done"].values()) > len(content) // 3)
        daemon.kill()
        before = server.sent_bytes
        server.release()
        daemon.start()
        done = daemon.wait("job", job["id"], lambda j: j["state"] in ("succeeded", "failed"))
        assert done["state"] == "succeeded", done["error"]
        fetched_after = server.sent_bytes - before
    assert fetched_after < len(content) * 2 // 3, "what was here was fetched again"
    version = daemon.get("/manage/v1/models/big")["versions"][0]
    assert version["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert daemon.deploy("big")["state"] == "ready"


def test_absurd_requests_are_400_and_leave_the_replica_alive(daemon, echo_model):
    daemon.pull(echo_model())
    daemon.deploy("echo")

    def status(path, body, **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return daemon.http.post(path, content=content, headers=headers).status_code

    infer = "/v2/models/echo/infer"
    shape = [10**30, 0]
    assert status(infer, {"inputs": [{"name": "input", "datatype": "FP32", "shape": shape, "data": []}]}) == 400
    deep = b"[" * 100_000 + b"]" * 100_000
    assert status(infer, b'{"inputs":[{"name":"input","datatype":"FP32","shape":[1,2],"data":%b}]}' % deep) == 400
    assert status(infer, BODY | {"parameters": {"timeout": 10**400}}) == 400
    assert status(infer, BODY, **{"inference-header-content-length": "9" * 5000}) == 400
    assert status(infer, BODY, origin="http://[") == 403
    assert daemon.http.get("/manage/v1/models?limit=" + "9" * 5000).status_code == 400
    assert daemon.post(infer, BODY)["outputs"][0]["data"] == [1.0, 2.0]


def test_a_language_route_refuses_absurd_numbers_and_counts_what_hangs_up(daemon, echo_model):
    daemon.pull(echo_model(kind="language", delay_ms=20))
    daemon.deploy("echo")
    ask = {"model": "echo", "prompt": "word " * 300, "max_tokens": 300}
    assert daemon.http.post("/v1/completions", json=ask | {"seed": 10**30}).status_code == 400
    assert daemon.http.post("/v1/completions", json=ask | {"prompt": [10**30]}).status_code == 400
    with daemon.http.stream("POST", "/v1/completions", json=ask | {"stream": True}) as answer:
        next(answer.iter_lines())
    idle = 'vllm:num_requests_running{model_name="echo",engine="echo"} 0'
    until(lambda: idle in daemon.http.get("/metrics").text)
    assert daemon.http.delete("/manage/v1/deployments/echo").status_code == 200


def test_a_daemon_told_to_stop_while_a_deployment_drains_still_ends_cleanly(daemon, echo_model):
    daemon.pull(echo_model(delay_ms=4000))
    daemon.deploy("echo")
    asking = threading.Thread(target=lambda: _ask_until_the_end(daemon.url))
    asking.start()
    until(lambda: 'nv_inference_pending_request_count{model="echo",version="1"}' in daemon.http.get("/metrics").text)
    removing = threading.Thread(target=lambda: _ignore_the_end(daemon.url))
    removing.start()
    daemon.wait("deployment", "echo", lambda d: d["state"] in ("draining", "stopped"))
    assert daemon.stop() == 0
    assert not (daemon.data_dir / "daemon.json").exists()
    asking.join()
    removing.join()


def _ignore_the_end(url):
    with contextlib.suppress(httpx2.TransportError):
        httpx2.delete(f"{url}/manage/v1/deployments/echo", timeout=30)


def _ask_until_the_end(url):
    with contextlib.suppress(httpx2.TransportError):
        httpx2.post(f"{url}/v2/models/echo/infer", json=BODY, timeout=30)

"""Changing what a route serves, and ending it: nothing that was accepted is lost."""

import contextlib
import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import psutil

from tests.support.daemon import RunningDaemon, gone_within, until

BODY = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}
ROUTE = "/manage/v1/deployments/echo"


def ask(daemon, route="echo"):
    return httpx2.post(f"{daemon.url}/v2/models/{route}/infer", json=BODY, timeout=30)


@contextlib.contextmanager
def asking(daemon, count):
    """``count`` requests that the daemon has accepted; gives their connections, for `statuses`."""
    host = daemon.url.removeprefix("http://")
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = http.client.HTTPConnection(host, timeout=30)
            stack.callback(connection.close)
            connection.request("POST", "/v2/models/echo/infer", json.dumps(BODY))
            connections.append(connection)
        daemon.get("/health")  # one loop reads them in order: when this is answered, those have come in
        yield connections


def statuses(connections):
    return [connection.getresponse().status for connection in connections]


def pid(state):
    return state["replicas"][0]["pid"]


def test_a_change_starts_beside_what_serves_and_takes_over(daemon, echo_model):
    daemon.pull(echo_model())
    before = daemon.deploy("echo")
    changing = daemon.put(ROUTE, {"model": "echo", "settings": {"load_delay_ms": 500}})
    assert changing["state"] == "ready"
    assert (changing["pending"]["model"], changing["pending"]["state"]) == ("echo", "starting")
    assert changing["spec"]["settings"] == {"load_delay_ms": 500}
    assert pid(changing) == pid(before)
    assert ask(daemon).status_code == 200
    after = daemon.settled("echo")
    assert after["pending"] is None
    assert pid(after) != pid(before)
    assert gone_within([psutil.Process(pid(before))] if psutil.pid_exists(pid(before)) else [], 5) == []
    assert ask(daemon).status_code == 200


def test_a_change_that_fails_leaves_what_serves_and_says_the_way_back(daemon, echo_model):
    daemon.pull(echo_model())
    before = daemon.deploy("echo")
    daemon.put(ROUTE, {"model": "echo", "settings": {"load_error": "bad_model"}})
    failed = daemon.settled("echo")
    assert failed["state"] == "ready"
    assert failed["error"] is None
    assert failed["pending"]["state"] == "failed"
    assert "asked to fail" in failed["pending"]["error"]["message"]
    assert failed["pending"]["note"].startswith("echo@1 goes on")
    assert failed["spec"]["settings"] == {"load_error": "bad_model"}
    assert ask(daemon).status_code == 200
    until(lambda: not daemon.get(ROUTE)["pending"]["replicas"])
    assert daemon.get(ROUTE)["pending"]["state"] == "failed"
    back = daemon.put(ROUTE, {"model": "echo"})
    assert (back["pending"], back["state"], pid(back)) == (None, "ready", pid(before))
    assert back["spec"]["settings"] == {}
    assert len(daemon.workers()) == 1


def test_what_served_beside_a_failed_change_serves_again_after_a_kill(daemon, echo_model):
    daemon.pull(echo_model())
    daemon.deploy("echo", settings={"max_batch_size": 3})
    daemon.put(ROUTE, {"model": "echo", "settings": {"load_error": "bad_model"}})
    assert daemon.settled("echo")["pending"]["state"] == "failed"
    daemon.kill()
    daemon.start()
    state = daemon.settled("echo")
    assert (state["state"], state["pending"]["state"]) == ("ready", "failed")
    assert state["spec"]["settings"] == {"load_error": "bad_model"}
    assert ask(daemon).status_code == 200
    taken = daemon.deploy("echo", settings={"max_batch_size": 5})
    assert taken["pending"] is None
    daemon.kill()
    daemon.start()
    assert daemon.settled("echo")["spec"]["settings"] == {"max_batch_size": 5}
    # Killed before it was written down that the change had taken over, it is made again.
    until(lambda: len(daemon.workers()) == 1)


def test_a_change_is_superseded_by_the_next(daemon, echo_model):
    daemon.pull(echo_model())
    before = daemon.deploy("echo")
    daemon.put(ROUTE, {"model": "echo", "settings": {"load_delay_ms": 60_000}})
    until(lambda: len(daemon.workers()) == 2)
    after = daemon.deploy("echo", settings={"max_batch_size": 4})
    assert after["pending"] is None
    assert after["spec"]["settings"] == {"max_batch_size": 4}
    assert pid(after) != pid(before)
    until(lambda: [worker.pid for worker in daemon.workers()] == [pid(after)])


def test_what_waits_for_the_version_before_is_answered_by_it(daemon, echo_model):
    daemon.pull(echo_model())
    daemon.deploy("echo", settings={"max_batch_size": 1, "delay_ms": 700})
    with asking(daemon, 4) as accepted:
        daemon.deploy("echo")
        assert ask(daemon).elapsed.total_seconds() < 0.7
        assert len(daemon.workers()) == 2  # the new one serves while the old one still works
        assert statuses(accepted) == [200] * 4


def test_undeploying_answers_what_was_accepted_and_refuses_what_comes(daemon, echo_model):
    daemon.pull(echo_model(delay_ms=700))
    daemon.deploy("echo", settings={"max_batch_size": 1})
    with asking(daemon, 3) as accepted, ThreadPoolExecutor(1) as pool:
        deletion = pool.submit(lambda: httpx2.delete(f"{daemon.url}{ROUTE}", timeout=30))
        daemon.wait("deployment", "echo", lambda d: d["state"] == "draining")
        refused = ask(daemon)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert "draining" in refused.json()["error"]
        assert deletion.result().status_code == 200
        assert statuses(accepted) == [200] * 3
    assert daemon.workers() == []


def test_a_daemon_that_is_stopped_answers_what_it_has_accepted(daemon, echo_model):
    daemon.pull(echo_model(delay_ms=700))
    daemon.deploy("echo", settings={"max_batch_size": 1})
    workers = daemon.workers()
    with asking(daemon, 3) as accepted:
        daemon.process.terminate()
        refused = until(lambda: (reply := httpx2.get(f"{daemon.url}/v2/models/echo")).status_code != 200 and reply)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert "stopping" in refused.json()["error"]
        assert httpx2.get(f"{daemon.url}/health/live").status_code == 200
        assert statuses(accepted) == [200] * 3
    assert daemon.stop() == 0
    assert gone_within(workers, 2) == []


def test_draining_ends_in_time(tmp_path, echo_model):
    with RunningDaemon(tmp_path / "data", PILOTHOUSE_DRAIN_S="0.5") as daemon:
        daemon.pull(echo_model(delay_ms=20_000))
        daemon.deploy("echo", settings={"max_batch_size": 1})
        with asking(daemon, 2) as accepted:
            began = time.monotonic()
            assert daemon.http.delete(ROUTE).status_code == 200
            assert time.monotonic() - began < 10
            assert statuses(accepted) == [503, 503]


def test_an_answer_of_a_language_model_is_written_to_its_end(daemon, echo_model):
    daemon.pull(echo_model("talk", kind="language", delay_ms=100))
    before = daemon.deploy("talk")
    words = [f"word{n}" for n in range(20)]
    request = {"model": "talk", "prompt": " ".join(words), "max_tokens": 50, "stream": True}
    with daemon.http.stream("POST", "/v1/completions", json=request) as answer:
        lines = answer.iter_lines()
        first = next(line for line in lines if line.startswith("data: "))
        after = daemon.deploy("talk", settings={"sequences": 2})
        assert pid(after) != pid(before)
        text = "".join([first, *lines])
    assert words[-1] in text and "[DONE]" in text and "error" not in text


def test_a_change_of_an_unready_deployment_replaces_it(daemon, echo_model):
    daemon.pull(echo_model())
    daemon.put(ROUTE, {"model": "echo", "settings": {"load_delay_ms": 60_000}})
    state = daemon.deploy("echo")
    assert (state["state"], state["pending"]) == ("ready", None)


def test_a_broken_deployment_that_is_changed_is_taken_over(daemon, echo_model):
    daemon.pull(echo_model(crash_on=1.0))
    before = daemon.deploy("echo")
    psutil.Process(pid(before)).kill()
    state = daemon.deploy("echo", settings={"crash_on": 5.0})
    assert ask(daemon).status_code == 200
    assert state["spec"]["settings"] == {"crash_on": 5.0}


def test_instances_are_replicas(daemon, echo_model):
    daemon.pull(echo_model())
    state = daemon.deploy("echo", settings={"instances": 2})
    assert (state["spec"]["replicas"], state["spec"]["settings"]) == (2, {})
    until(lambda: len(daemon.workers()) == 2)
    refusal = daemon.http.put(ROUTE, json={"model": "echo", "replicas": 3, "settings": {"instances": 2}})
    assert refusal.status_code == 400
    assert "same" in refusal.json()["error"]["message"]


def test_more_devices_than_replicas_are_refused(daemon, echo_model):
    daemon.pull(echo_model())
    refusal = daemon.http.put(ROUTE, json={"model": "echo", "device": "cuda:0,cuda:1"})
    assert refusal.status_code == 400
    assert "set replicas to 2" in refusal.json()["error"]["hint"]


def test_requests_in_the_instant_of_each_change_are_answered(daemon, echo_model):
    daemon.pull(echo_model())
    daemon.deploy("echo")
    seen, stop = [], threading.Event()

    def load():
        with httpx2.Client(timeout=30) as client:
            while not stop.is_set() and len(seen) < 20_000:
                seen.append(client.post(f"{daemon.url}/v2/models/echo/infer", json=BODY).status_code)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for n in range(1, 6):
            daemon.deploy("echo", settings={"max_batch_size": n})
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(seen) == {200}

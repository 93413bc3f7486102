"""The daemon's HTTP client against a real server."""

import socket

import pytest

from app.client import Client, ClientError, escape, problem
from tests.support.scripted_daemon import ScriptedDaemon

JOB = {"id": "j1", "kind": "download", "title": "downloading tiny", "state": "queued", "progress": 0.0}


@pytest.fixture
def client(scripted_daemon: ScriptedDaemon):
    with Client(scripted_daemon.url, "secret") as client:
        yield client


@pytest.mark.parametrize(
    ("body", "message", "hint", "code"),
    [
        (b'{"error":{"code":"queue_full","message":"too many","hint":"wait"}}', "too many", "wait", "queue_full"),
        (b'{"error":"unknown model x"}', "unknown model x", "", "http_error"),
        (b'{"error":{"message":"no","type":"invalid_request","code":null}}', "no", "", "invalid_request"),
        (b"<html>bad gateway</html>", "<html>bad gateway</html>", "", "http_error"),
        (b"", "HTTP status 503", "", "http_error"),
    ],
)
def test_every_protocols_error_envelope_is_understood(body: bytes, message: str, hint: str, code: str):
    error = problem(503, body)
    assert (error.message, error.hint, error.code, error.status) == (message, hint, code, 503)


def test_the_key_and_the_body_are_sent(client: Client, scripted_daemon: ScriptedDaemon):
    scripted_daemon.answers[("POST", "/manage/v1/jobs")] = (202, JOB)
    assert client.post("/manage/v1/jobs", {"kind": "download", "ref": "tiny"}) == JOB
    asked = scripted_daemon.asked[-1]
    assert asked.headers["authorization"] == "Bearer secret"
    assert asked.body == {"kind": "download", "ref": "tiny"}


def test_a_query_leaves_out_what_is_none(client: Client, scripted_daemon: ScriptedDaemon):
    scripted_daemon.answers[("DELETE", "/manage/v1/models/tiny")] = (200, {})
    client.delete("/manage/v1/models/tiny", version=None)
    client.delete("/manage/v1/models/tiny", version=2)
    assert [asked.query for asked in scripted_daemon.asked] == ["", "version=2"]


def test_a_name_stays_one_segment(client: Client, scripted_daemon: ScriptedDaemon):
    with pytest.raises(ClientError) as caught:
        client.get(f"/manage/v1/models/{escape('../a b')}")
    assert caught.value.status == 404
    assert scripted_daemon.asked[-1].path == "/manage/v1/models/..%2Fa%20b"


def test_lists_are_read_to_their_last_page(client: Client, scripted_daemon: ScriptedDaemon):
    def page(asked):
        return 200, {"items": [2], "next_cursor": None} if "cursor=b" in asked.query else {
            "items": [1],
            "next_cursor": "b",
        }

    scripted_daemon.answers[("GET", "/manage/v1/jobs")] = page
    assert client.items("/manage/v1/jobs", limit=1) == [1, 2]


def test_no_daemon_is_said_with_a_remedy():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody answers and nobody else can
        with Client(f"http://127.0.0.1:{taken.getsockname()[1]}") as client, pytest.raises(ClientError) as caught:
            client.get("/manage/v1/models")
    assert caught.value.status == 0 and "did not answer" in caught.value.message and caught.value.hint


def test_an_answer_that_is_not_json_is_an_error(client: Client, scripted_daemon: ScriptedDaemon):
    scripted_daemon.answers[("GET", "/x")] = (200, b"hello")
    with pytest.raises(ClientError, match="did not answer with JSON"):
        client.get("/x")


def test_a_job_is_followed_to_its_end(client: Client, scripted_daemon: ScriptedDaemon):
    states = [JOB | {"state": "running", "progress": share} for share in (0.1, 0.9)] + [JOB | {"state": "succeeded"}]
    scripted_daemon.state = {"job": {"j1": JOB}}
    scripted_daemon.script = [("job", "other", JOB | {"id": "other"}), *(("job", "j1", state) for state in states)]
    seen: list[tuple[str, float]] = []
    job = client.wait_job(JOB, lambda state: seen.append((state["state"], state["progress"])))
    assert job["state"] == "succeeded"
    assert seen == [("queued", 0.0), ("queued", 0.0), ("running", 0.1), ("running", 0.9), ("succeeded", 0.0)]


def test_a_job_that_ended_before_the_stream_opened_is_asked_for(client: Client, scripted_daemon: ScriptedDaemon):
    scripted_daemon.answers[("GET", "/manage/v1/jobs/j1")] = (200, JOB | {"state": "succeeded"})
    assert client.wait_job(JOB)["state"] == "succeeded"


def test_a_finished_job_needs_no_stream(client: Client, scripted_daemon: ScriptedDaemon):
    client.wait_job(JOB | {"state": "succeeded"})
    assert scripted_daemon.asked == []


def test_a_failed_job_raises_its_own_error(client: Client, scripted_daemon: ScriptedDaemon):
    error = {"code": "insufficient_disk", "message": "needs 5.0 GB, 1.2 GB are free", "hint": "remove a model"}
    scripted_daemon.script = [("job", "j1", JOB | {"state": "failed", "error": error})]
    scripted_daemon.answers[("GET", "/manage/v1/jobs/j1")] = (200, JOB)
    with pytest.raises(ClientError) as caught:
        client.wait_job(JOB)
    assert (caught.value.code, caught.value.message, caught.value.hint) == tuple(error.values())


def test_a_daemon_that_stops_in_mid_job_is_an_error(client: Client, scripted_daemon: ScriptedDaemon):
    scripted_daemon.state, scripted_daemon.hang_up = {"job": {"j1": JOB}}, True
    with pytest.raises(ClientError, match="the daemon stopped during downloading tiny"):
        client.wait_job(JOB)


@pytest.mark.parametrize("end", ["ready", "idle", "stopped"])
def test_a_deployment_is_followed_until_it_stands(client: Client, scripted_daemon: ScriptedDaemon, end: str):
    starting = {"route": "digits", "state": "starting"}
    whole = starting | {"state": end, "engine_version": "1.32.0"}
    scripted_daemon.state = {"deployment": {"digits": starting}}
    scripted_daemon.script = [("deployment", "digits", starting | {"state": end})]
    scripted_daemon.answers[("GET", "/manage/v1/deployments/digits")] = (200, whole)
    assert client.wait_deployment(starting) == whole


def test_a_deployment_that_fails_raises_with_its_details(client: Client, scripted_daemon: ScriptedDaemon):
    error = {
        "code": "engine_unavailable",
        "message": "no engine",
        "hint": "x",
        "details": {"runtime": "llamacpp-cpu"},
    }
    with pytest.raises(ClientError) as caught:
        client.wait_deployment({"route": "tiny", "state": "failed", "error": error})
    assert caught.value.code == "engine_unavailable" and caught.value.details["runtime"] == "llamacpp-cpu"


def test_a_chat_is_streamed_and_counted(client: Client, scripted_daemon: ScriptedDaemon):
    scripted_daemon.answers[("POST", "/v1/chat/completions")] = (
        200,
        [
            '{"choices":[{"delta":{"role":"assistant"}}]}',
            '{"choices":[{"delta":{"content":"Good "}}]}',
            '{"choices":[{"delta":{"content":"morning"},"finish_reason":"stop"}]}',
            '{"choices":[],"usage":{"completion_tokens":2}}',
            "[DONE]",
        ],
    )
    usage: dict = {}
    messages = [{"role": "user", "content": "hi"}]
    assert list(client.stream_chat("tiny", messages, usage=usage, max_tokens=5)) == ["Good ", "morning"]
    assert usage == {"completion_tokens": 2}
    body = scripted_daemon.asked[-1].body
    assert body["model"] == "tiny" and body["messages"] == messages and body["max_tokens"] == 5 and body["stream"]


def test_an_error_inside_a_stream_is_raised(client: Client, scripted_daemon: ScriptedDaemon):
    error = '{"error":{"message":"the worker died","type":"server_error","code":"replica_lost"}}'
    scripted_daemon.answers[("POST", "/v1/chat/completions")] = (
        200,
        ['{"choices":[{"delta":{"content":"Go"}}]}', error],
    )
    pieces = client.stream_chat("tiny", [])
    assert next(pieces) == "Go"
    with pytest.raises(ClientError, match="the worker died"):
        next(pieces)


def test_a_stream_that_is_refused_raises(client: Client, scripted_daemon: ScriptedDaemon):
    scripted_daemon.answers[("POST", "/v1/chat/completions")] = (404, {"error": {"message": "no route tiny"}})
    with pytest.raises(ClientError, match="no route tiny"):
        list(client.stream_chat("tiny", []))


def test_a_change_is_followed_until_it_has_taken_over(client: Client, scripted_daemon: ScriptedDaemon):
    old = {"route": "tiny", "state": "ready", "version": 1, "pending": {"state": "starting"}}
    new = {"route": "tiny", "state": "ready", "version": 2, "pending": None}
    scripted_daemon.state["deployment"] = {"tiny": old}
    scripted_daemon.script = [("deployment", "tiny", new)]
    scripted_daemon.answers[("GET", "/manage/v1/deployments/tiny")] = (200, new)
    assert client.wait_deployment(old) == new


def test_a_change_that_fails_says_so_although_the_route_serves(client: Client):
    error = {"code": "bad_model", "message": "not a model", "hint": "check it"}
    pending = {"state": "failed", "error": error, "note": "tiny@1 goes on as before"}
    with pytest.raises(ClientError) as caught:
        client.wait_deployment({"route": "tiny", "state": "ready", "pending": pending})
    assert (caught.value.code, caught.value.message) == ("bad_model", "not a model")
    assert caught.value.hint == "check it; tiny@1 goes on as before"

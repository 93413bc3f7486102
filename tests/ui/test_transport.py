from collections.abc import Callable

import pytest
from pytestqt.qtbot import QtBot

from tests.support.fake_daemon import FakeDaemon
from ui.transport import BACKOFF_S, Client, EventStream, Problem, backoff_s, problem_of
from ui.window import Window


@pytest.mark.parametrize(
    ("body", "message", "hint"),
    [
        (b'{"error": {"code": "conflict", "message": "No.", "hint": "Wait."}}', "No.", "Wait."),
        (b'{"error": "queue full"}', "queue full", ""),
        (b"<html>", "The daemon answered 503.", "x"),
    ],
)
def test_problems_are_read_from_every_envelope(body: bytes, message: str, hint: str) -> None:
    problem = problem_of(503, body, "x")
    assert (problem.message, problem.hint) == (message, hint)


def test_the_pauses_grow_and_end_growing() -> None:
    assert [backoff_s(attempt) for attempt in range(7)] == [*BACKOFF_S, BACKOFF_S[-1], BACKOFF_S[-1]]


def test_a_request_carries_the_key_and_its_answer_comes_decoded(qtbot: QtBot, daemon: FakeDaemon) -> None:
    answers: list[object] = []
    client = Client(daemon.url, "secret")
    client.get("/manage/v1/settings", answers.append)
    qtbot.waitUntil(lambda: bool(answers))
    assert answers[0]["items"][0]["key"] == "host"  # type: ignore[index]
    assert client.request("/").rawHeader("Authorization").data() == b"Bearer secret"


def test_a_failure_is_a_problem(qtbot: QtBot, daemon: FakeDaemon) -> None:
    problems: list[Problem] = []
    client = Client(daemon.url)
    client.send("POST", "/nowhere", {}, None, problems.append)
    qtbot.waitUntil(lambda: len(problems) == 1)
    assert problems[0].code == "not_found"
    away = Client("http://127.0.0.1:1")
    away.send("POST", "/nowhere", {}, None, problems.append)
    qtbot.waitUntil(lambda: len(problems) == 2)
    assert problems[1].code == "offline"


def test_the_stream_resumes_after_the_last_id(qtbot: QtBot, daemon: FakeDaemon) -> None:
    stream = EventStream(Client(daemon.url))
    seen: list[str] = []
    stream.received.connect(lambda event: seen.append(event.name))
    stream.start()
    qtbot.waitUntil(lambda: seen == ["snapshot"])
    daemon.publish("job", "j1", None)
    qtbot.waitUntil(lambda: seen == ["snapshot", "change"])
    port = daemon.port
    with qtbot.waitSignal(stream.disconnected):
        daemon.stop()
    again = FakeDaemon(port)
    try:
        with qtbot.waitSignal(stream.connected, timeout=8000):
            stream.retry_now()
        assert again.event_headers[-1]["last-event-id"] == "1"
    finally:
        stream.close()
        again.stop()


def test_the_window_outlives_its_daemon(qtbot: QtBot, open_window: Callable[[str], Window]) -> None:
    first = FakeDaemon()
    window = open_window(first.url)
    qtbot.waitUntil(lambda: len(window.overview.model.rows) == 3)
    first.stop()
    qtbot.waitUntil(window.offline.isVisible)
    assert "last heard" in window.offline.text()
    assert len(window.overview.model.rows) == 3, "the last data stays"
    second = FakeDaemon(first.port)
    try:
        second.publish("deployment", "embed", None)
        qtbot.waitUntil(lambda: not window.offline.isVisible(), timeout=12000)
        qtbot.waitUntil(lambda: [row.deployment.route for row in window.overview.model.rows] == ["assistant", "digits"])
    finally:
        window.session.close()
        second.stop()


def test_a_window_without_a_daemon_says_so(qtbot: QtBot, open_window: Callable[[str], Window]) -> None:
    window = open_window("http://127.0.0.1:1")
    qtbot.waitUntil(window.offline.isVisible)
    assert "not heard yet" in window.offline.text()

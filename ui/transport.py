"""HTTP and server-sent events to the daemon. Nothing here blocks; every answer is a signal or a callback."""

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from PySide6.QtCore import QByteArray, QElapsedTimer, QObject, QTimer, QUrl, Signal
from PySide6.QtNetwork import QNetworkAccessManager, QNetworkProxy, QNetworkReply, QNetworkRequest
from shiboken6 import isValid

from app.schema.manage import Problem
from ui.sse import Event, Parser

#: Seconds between attempts to reach a daemon that is away; the last one repeats.
BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0)
#: The stream says something every second; after this much silence it is taken for dead.
SILENCE_S = 10.0
TIMEOUT_S = 30.0

Done = Callable[[Any], None]
Told = Callable[[Any, dict[str, str]], None]
"""An answer and its headers, whose names are in small letters."""
Failed = Callable[[Problem], None]


def problem_of(status: int, body: bytes, reason: str) -> Problem:
    """The problem in any of the daemon's error envelopes, or in words of our own."""
    if not status:
        return Problem(code="offline", message="The daemon does not answer.", hint=reason)
    try:
        error = msgspec.json.decode(body)["error"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return Problem(code=f"http_{status}", message=f"The daemon answered {status}.", hint=reason)
    if isinstance(error, str):
        return Problem(code=f"http_{status}", message=error)
    return Problem(
        code=str(error.get("code") or f"http_{status}"),
        message=str(error.get("message") or f"The daemon answered {status}."),
        hint=str(error.get("hint") or ""),
        details=error.get("details") or {},
    )


def backoff_s(attempt: int) -> float:
    """Seconds to wait before attempt number ``attempt`` (0 is the first retry)."""
    return BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]


def _manager(parent: QObject) -> QNetworkAccessManager:
    manager = QNetworkAccessManager(parent)
    # The daemon is on this machine: a proxy meant for the internet must not come between.
    manager.setProxy(QNetworkProxy(QNetworkProxy.ProxyType.NoProxy))
    return manager


def _alive(callback: Callable[..., object]) -> bool:
    """Whether the widget that waits for an answer is still there; one that is gone needs none."""
    while isinstance(callback, partial):
        callback = callback.func
    owner = getattr(callback, "__self__", None)
    return not isinstance(owner, QObject) or isValid(owner)


def _status(reply: QNetworkReply) -> int:
    return int(reply.attribute(QNetworkRequest.Attribute.HttpStatusCodeAttribute) or 0)


def _headers(reply: QNetworkReply) -> dict[str, str]:
    return {
        bytes(name.data()).decode("latin-1").lower(): bytes(value.data()).decode("latin-1")
        for name, value in reply.rawHeaderPairs()
    }


class Client(QObject):
    """Requests to one daemon. ``done`` gets the decoded JSON (or `None`), ``failed`` a `Problem`."""

    def __init__(self, url: str, key: str = "", parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.url = url.rstrip("/")
        self.key = key
        self._manager = _manager(self)
        self._asker = _manager(self)

    def request(self, path: str, timeout_s: float | None = TIMEOUT_S) -> QNetworkRequest:
        request = QNetworkRequest(QUrl(self.url + path))
        request.setHeader(QNetworkRequest.KnownHeaders.ContentTypeHeader, "application/json")
        if self.key:
            request.setRawHeader(QByteArray(b"Authorization"), QByteArray(f"Bearer {self.key}".encode()))
        if timeout_s is not None:
            request.setTransferTimeout(int(timeout_s * 1000))
        return request

    def get(self, path: str, done: Done, failed: Failed | None = None, pick: str = "") -> None:
        """``pick`` names the field of the answer that ``done`` gets instead of the whole."""
        Call(self._manager.get(self.request(path)), done, failed, self, pick)

    def close(self) -> None:
        """Gives up on everything under way; nobody is told."""
        for call in self.findChildren(Call):
            call.cancel()
        for stream in self.findChildren(Stream):
            stream.blockSignals(True)
            stream.stop()

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        done: Done | None = None,
        failed: Failed | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """``body``: bytes as they are, anything else as JSON."""
        Call(self._manager.sendCustomRequest(*self._message(method, path, body, timeout_s)), done, failed, self)

    def ask(
        self, path: str, body: Any, told: Told, failed: Failed | None = None, headers: dict[str, str] | None = None
    ) -> None:
        """A POST whose answer's headers and time matter. It has a connection of its own: Qt sends head and body of a
        larger message apart, and on an older connection the second waits 40 ms for the delayed ACK of the first."""
        request, verb, data = self._message("POST", path, body, TIMEOUT_S)
        for name, value in ((headers or {}) | {"Connection": "close"}).items():
            request.setRawHeader(QByteArray(name.encode()), QByteArray(value.encode()))
        Call(self._asker.sendCustomRequest(request, verb, data), None, failed, self, told=told)

    def stream(self, path: str, body: Any) -> "Stream":
        return Stream(self._manager.sendCustomRequest(*self._message("POST", path, body, None)), self)

    def _message(
        self, method: str, path: str, body: Any, timeout_s: float | None
    ) -> tuple[QNetworkRequest, QByteArray, QByteArray]:
        data = b"" if body is None else body if isinstance(body, bytes) else msgspec.json.encode(body)
        request = self.request(path, timeout_s)
        if isinstance(body, bytes):
            request.setHeader(QNetworkRequest.KnownHeaders.ContentTypeHeader, "application/octet-stream")
        return request, QByteArray(method.encode()), QByteArray(data)


class Call(QObject):
    """One request under way. Bound methods, no closures, are connected to the reply: a closure that holds the reply
    which holds the closure is collected by Python at a moment that Qt does not survive."""

    def __init__(
        self, reply: QNetworkReply, done: Done | None, failed: Failed | None, parent: QObject, pick: str = "",
        told: Told | None = None,
    ) -> None:  # fmt: skip
        super().__init__(parent)
        self._reply, self._done, self._failed, self._pick, self._told = reply, done, failed, pick, told
        reply.setParent(self)
        reply.finished.connect(self._finished)

    def _finished(self) -> None:
        reply, status = self._reply, _status(self._reply)
        body = bytes(reply.readAll().data())
        self.deleteLater()
        if reply.error() == QNetworkReply.NetworkError.OperationCanceledError and not status:
            self._fail(Problem(code="timeout", message="The daemon took too long to answer."))
        elif not 200 <= status < 300:
            self._fail(problem_of(status, body, reply.errorString()))
        else:
            try:
                value: Any = msgspec.json.decode(body) if body else None
            except msgspec.DecodeError:
                self._fail(Problem(code="bad_answer", message="The daemon's answer could not be read."))
                return
            if self._told is not None and _alive(self._told):
                self._told(value, _headers(reply))
            if self._done is not None and _alive(self._done):
                self._done(value[self._pick] if self._pick else value)

    def _fail(self, problem: Problem) -> None:
        if self._failed is not None and _alive(self._failed):
            self._failed(problem)

    def cancel(self) -> None:
        self._done = self._failed = self._told = None
        self._reply.abort()


class Stream(QObject):
    """An answer that arrives as server-sent events: ``received`` for each, then ``ended`` once with a `Problem` or
    `None`. `stop` ends it early, which the daemon sees as the caller hanging up."""

    received = Signal(object)
    ended = Signal(object)

    def __init__(self, reply: QNetworkReply, parent: QObject) -> None:
        super().__init__(parent)
        self._reply = reply
        self._parser = Parser()
        self._stopped = False
        reply.setParent(self)
        reply.readyRead.connect(self._read)
        reply.finished.connect(self._finished)

    def _read(self) -> None:
        if 200 <= _status(self._reply) < 300 and not self._stopped:
            for event in self._parser.feed(bytes(self._reply.readAll().data())):
                self.received.emit(event)

    def _finished(self) -> None:
        status = _status(self._reply)
        problem = None
        if self._stopped:
            pass
        elif not 200 <= status < 300:
            problem = problem_of(status, bytes(self._reply.readAll().data()), self._reply.errorString())
        else:
            self._read()
            if self._reply.error() != QNetworkReply.NetworkError.NoError:
                problem = Problem(code="cut_off", message="The answer was cut off.", hint=self._reply.errorString())
        self.ended.emit(problem)
        self.deleteLater()

    def stop(self) -> None:
        self._stopped = True
        self._reply.abort()


class EventStream(QObject):
    """`GET /manage/v1/events` for ever: reconnects with growing pauses and resumes after the last id it saw."""

    received = Signal(object)
    connected = Signal()
    disconnected = Signal(str)
    """Why, in the transport's words; emitted for each attempt that fails."""

    def __init__(self, client: Client, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._client = client
        self._manager = _manager(self)
        self._reply: QNetworkReply | None = None
        self._parser = Parser()
        self._attempt = 0
        self._up = False
        self._closed = True
        self.last_id: str | None = None
        self._heard = QElapsedTimer()
        self._retry = QTimer(self, singleShot=True)
        self._retry.timeout.connect(self._connect)
        self._watchdog = QTimer(self, interval=1000)
        self._watchdog.timeout.connect(self._check_silence)

    def start(self) -> None:
        self._closed = False
        self._watchdog.start()
        self._connect()

    def close(self) -> None:
        self._closed = True
        self._retry.stop()
        self._watchdog.stop()
        if self._reply is not None:
            self._reply.abort()

    def retry_now(self) -> None:
        if self._retry.isActive():
            self._retry.stop()
            self._connect()

    def retry_in_s(self) -> float:
        """Seconds until the next attempt; 0 when one is under way or the stream is up."""
        return max(0, self._retry.remainingTime()) / 1000 if self._retry.isActive() else 0.0

    def _connect(self) -> None:
        request = self._client.request("/manage/v1/events", None)
        request.setRawHeader(QByteArray(b"Accept"), QByteArray(b"text/event-stream"))
        if self.last_id is not None:
            request.setRawHeader(QByteArray(b"Last-Event-ID"), QByteArray(self.last_id.encode()))
        self._parser = Parser()
        self._heard.start()
        self._reply = self._manager.get(request)
        self._reply.readyRead.connect(self._read)
        self._reply.finished.connect(self._finished)

    def _read(self) -> None:
        reply = self._reply
        if reply is None or _status(reply) != 200:
            return
        self._heard.restart()
        if not self._up:
            self._up, self._attempt = True, 0
            self.connected.emit()
        for event in self._parser.feed(bytes(reply.readAll().data())):
            self.received.emit(event)
            if event.id is not None:
                self.last_id = event.id

    def _finished(self) -> None:
        reply, self._reply = self._reply, None
        if reply is None:
            return
        reply.deleteLater()
        if self._closed:
            return
        status = _status(reply)
        problem = problem_of(status, bytes(reply.readAll().data()), reply.errorString())
        self._retry.start(int(backoff_s(self._attempt) * 1000))
        self._up, self._attempt = False, self._attempt + 1
        self.disconnected.emit(problem.message if status not in {0, 200} else "The daemon does not answer.")

    def _check_silence(self) -> None:
        if self._reply is not None and self._heard.isValid() and self._heard.elapsed() > SILENCE_S * 1000:
            self._reply.abort()


__all__ = ["Client", "Event", "EventStream", "Problem", "Stream", "backoff_s", "problem_of"]

"""A tiny real HTTP server with the daemon's manners, for tests of its clients: it answers what it is told to,
remembers what it was asked, and keeps event streams open."""

import json
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Answer = tuple[int, Any]


@dataclass
class Asked:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any


@dataclass
class ScriptedDaemon:
    """``answers``: (method, path) → (status, JSON) or a function of the request. A list is sent as an event stream.

    ``script``: changes (kind, key, value) that the first event stream sends after its snapshot; then it stays open,
    or with ``hang_up`` is closed.
    """

    answers: dict[tuple[str, str], Answer | Callable[[Asked], Answer]] = field(default_factory=dict)
    state: dict[str, dict[str, Any]] = field(default_factory=dict)
    script: list[tuple[str, str, Any]] = field(default_factory=list)
    hang_up: bool = False
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._streams: list[queue.SimpleQueue[bytes | None]] = []
        self.answers[("GET", "/health/live")] = self.answers[("GET", "/health/ready")] = (200, {})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False  # so that closing waits for each answer
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def write_daemon_file(self, folder: Any, pid: int | None = None) -> None:
        entry = {"url": self.url, "pid": pid or os.getpid(), "version": "0.0.0"}
        (folder / "daemon.json").write_text(json.dumps(entry), encoding="utf-8")

    def bodies(self, method: str, path: str) -> list[Any]:
        return [entry.body for entry in self.asked if (entry.method, entry.path) == (method, path)]

    def close(self) -> None:
        for stream in self._streams:
            stream.put(None)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        daemon = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                parts = urlsplit(self.path)
                content = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {key.lower(): value for key, value in self.headers.items()}
                binary = "inference-header-content-length" in headers
                body = content if binary else json.loads(content or b"null")
                asked = Asked(self.command, parts.path, parts.query, headers, body)
                daemon.asked.append(asked)
                if parts.path == "/manage/v1/events":
                    daemon._events(self)
                    return
                answer = daemon.answers.get((self.command, parts.path), (404, _missing(parts.path)))
                status, document = answer(asked) if callable(answer) else answer
                if isinstance(document, list):
                    self.start(status, "text/event-stream")
                    self.wfile.write("".join(f"data: {line}\n\n" for line in document).encode())
                else:
                    body = document if isinstance(document, bytes) else json.dumps(document).encode()
                    self.start(status, "application/json", len(body))
                    self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def start(self, status: int, content_type: str, length: int | None = None) -> None:
                self.send_response(status)
                self.send_header("content-type", content_type)
                if length is not None:
                    self.send_header("content-length", str(length))
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        return Handler

    def _events(self, handler: Any) -> None:
        stream: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._streams.append(stream)
        stream.put(_event("snapshot", {"state": self.state}))
        for kind, key, value in self.script:
            self.state.setdefault(kind, {})[key] = value
            stream.put(_event("change", {"kind": kind, "key": key, "value": value}))
        self.script = []
        if self.hang_up:
            stream.put(None)
        handler.start(200, "text/event-stream")
        handler.close_connection = True
        try:
            while (piece := stream.get()) is not None:
                handler.wfile.write(piece)
        except OSError:
            pass  # the client has left


def _event(name: str, document: Any) -> bytes:
    return f"id: 1\nevent: {name}\ndata: {json.dumps(document)}\n\n".encode()


def _missing(path: str) -> dict[str, Any]:
    return {"error": {"code": "not_found", "message": f"nothing at {path}", "hint": "", "details": {}}}

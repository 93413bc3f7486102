"""A real HTTP file server on loopback that misbehaves on request."""

import contextlib
import hashlib
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Seen:
    """One request, and how many bytes of body were sent for it."""

    path: str
    range: str | None
    headers: dict[str, str]
    sent_bytes: int = 0


@dataclass
class RangeServer:
    """Serves ``files`` (path → content). Change its fields at any time; use it as a context manager."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etags: bool = True
    if_range: bool = True
    """Whether If-Range is understood."""
    drops: list[int] = field(default_factory=list)
    """For each request to come with a body of more than one byte: cut the connection after so many bytes."""
    failures: list[int] = field(default_factory=list)
    """Statuses to answer first."""
    budget_bytes: int | None = None
    """Body bytes that may still be sent; then answers hang until `release`."""
    extra_headers: dict[str, dict[str, str]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)

    def __enter__(self) -> "RangeServer":
        self._turn = threading.Condition()
        self._closed = False
        self.connections: set[socket.socket] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"owner": self}))
        self._server.daemon_threads = False  # so that closing waits for them
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._turn:
            self._closed = True
            self._turn.notify_all()
        self._server.shutdown()
        self._thread.join()
        for connection in list(self.connections):  # kept alive by a client: nobody will speak on it any more
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def sent_bytes(self) -> int:
        return sum(entry.sent_bytes for entry in self.seen)

    def release(self) -> None:
        with self._turn:
            self.budget_bytes = None
            self._turn.notify_all()

    def wait_until_spent(self, timeout_s: float = 20) -> None:
        """Until the budget is used up, so that answers hang."""
        with self._turn:
            assert self._turn.wait_for(lambda: self.budget_bytes == 0, timeout_s)

    def allow(self, count: int) -> int:
        """How many of ``count`` bytes may be sent now; waits for at least one."""
        with self._turn:
            self._turn.wait_for(lambda: self._closed or self.budget_bytes is None or self.budget_bytes > 0)
            if self._closed:
                raise ConnectionAbortedError
            if self.budget_bytes is None:
                return count
            count = min(count, self.budget_bytes)
            self.budget_bytes -= count
            self._turn.notify_all()
            return count


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: RangeServer

    def log_message(self, *_: object) -> None: ...

    def handle(self) -> None:
        self.owner.connections.add(self.connection)
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True
        finally:
            self.owner.connections.discard(self.connection)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        owner = self.owner
        path = self.path.partition("?")[0]
        seen = Seen(path, self.headers.get("range"), {key.lower(): value for key, value in self.headers.items()})
        owner.seen.append(seen)
        if owner.failures:
            return self._empty(owner.failures.pop(0))
        if path in owner.redirects:
            return self._empty(302, {"location": owner.redirects[path]})
        content = owner.files.get(path)
        if content is None:
            return self._empty(404, owner.extra_headers.get(path, {}))
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        start, end = 0, len(content)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", seen.range or "") if owner.ranges else None
        fresh = not owner.if_range or self.headers.get("if-range", etag) == etag
        if match and fresh:
            start = int(match[1])
            end = min(int(match[2]) + 1, end) if match[2] else end
            if start >= len(content):
                return self._empty(416, {"content-range": f"bytes */{len(content)}"})
            self.send_response(206)
            self.send_header("content-range", f"bytes {start}-{end - 1}/{len(content)}")
        else:
            self.send_response(200)
        if owner.etags:
            self.send_header("etag", etag)
        for key, value in owner.extra_headers.get(path, {}).items():
            self.send_header(key, value)
        self.send_header("content-length", str(end - start))
        self.end_headers()
        if self.command != "HEAD":
            self._body(content[start:end], seen)

    def _body(self, body: bytes, seen: Seen) -> None:
        cut = self.owner.drops.pop(0) if self.owner.drops and len(body) > 1 else None
        body = body[:cut]
        while seen.sent_bytes < len(body):
            count = self.owner.allow(min(16384, len(body) - seen.sent_bytes))
            self.wfile.write(body[seen.sent_bytes : seen.sent_bytes + count])
            seen.sent_bytes += count
        if cut is not None:
            self.close_connection = True

    def _empty(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"content-length": "0", **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()

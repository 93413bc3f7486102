"""Uvicorn's HTTP protocol, with a shorter way for what nearly every request is: a whole body, a whole answer."""

import asyncio
from functools import lru_cache
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

#: In the scope of a request: to cancel it when its client hangs up, and that it has.
CANCEL, GONE = "pilothouse.cancel", "pilothouse.gone"
#: In the scope: its `Exchange`.
EXCHANGE = "pilothouse.exchange"

Headers = list[tuple[bytes, bytes]]


class _Joined:
    """A transport that holds the head of an answer (what ends in an empty line) until the next write, or the next
    turn of the loop. Sent by itself it costs a system call and wakes the client for nothing."""

    def __init__(self, transport: asyncio.Transport):
        self._transport = transport
        self._call_soon = asyncio.get_running_loop().call_soon
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.endswith(b"\r\n\r\n"):
            self._head = data
            self._call_soon(self._flush)
            return
        self._transport.write(data)

    def _flush(self) -> None:
        if self._head:
            data, self._head = self._head, b""
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Exchange(RequestResponseCycle):
    """One request and its answer."""

    task: "asyncio.Task[None] | None" = None
    """What computes the answer."""
    _taken = False

    async def receive(self) -> Any:
        if self.more_body or self._taken or self.waiting_for_100_continue or self.disconnected:
            return await super().receive()
        self._taken = True  # a body that is here already needs no waiting
        self.message_event.clear()
        self.flow.resume_reading()
        message = {"type": "http.request", "body": bytes(self.body), "more_body": False}
        self.body = bytearray()
        return message

    def answer(self, status: int, headers: Headers, body: bytes) -> bool:
        """Send a whole answer with one write; its length is added. `False`: it must go by ASGI's messages, because the
        client reads slowly or wants the head alone. Header values must be free of control characters."""
        if self.flow.write_paused or self.scope["method"] == "HEAD":
            return False
        self.response_started = self.response_complete = True
        if self.disconnected:
            return True
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        if not self.keep_alive:
            lines += b"connection: close\r\n"
        head = b"%b%bcontent-length: %d\r\n\r\n" % (STATUS_LINE[status], lines, len(body))
        self.transport.write(head + body)
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        return True


class Protocol(HttpToolsProtocol):
    """Also cancels what is computed for a client that hangs up, where the application has asked for it. Connections
    that nobody uses are closed once they were idle for uvicorn's ``timeout_keep_alive``, at most twice as long."""

    _used = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(_Joined(transport))  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        if self.cycle and not self.cycle.response_complete:
            scope = cast(dict[str, Any], self.cycle.scope)
            scope[GONE] = True
            if scope.get(CANCEL) and (task := cast(Exchange, self.cycle).task):
                task.cancel()

    def on_headers_complete(self) -> None:
        parser, scope = self.parser, cast(dict[str, Any], self.scope)
        version = parser.get_http_version()
        scope["method"] = parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        scope["path"], scope["raw_path"], scope["query_string"] = _parts(self.url)
        before = self.cycle
        self.cycle = scope[EXCHANGE] = Exchange(
            self.scope,
            self.transport,
            self.flow,
            self.logger,
            self.access_logger,
            self.access_log,
            self.server_state.default_headers,
            asyncio.Event(),
            self.expect_100_continue,
            version != "1.0" and parser.should_keep_alive(),
            self.on_response_complete,
        )
        self._used = True
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        task = self.loop.create_task(self._run(cycle, app))
        cast(Exchange, cycle).task = task
        self.tasks.add(task)

    async def _run(self, cycle: RequestResponseCycle, app: Any) -> None:
        try:
            await cycle.run_asgi(app)
        finally:
            self.tasks.discard(cast(Exchange, cycle).task)
            cast(dict[str, Any], cycle.scope).pop(EXCHANGE)  # each holds the other: only a collection would free them

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self.timeout_keep_alive_task is None:
            self._watch()

    def _unset_keepalive_if_required(self) -> None:
        """One timer lasts for many requests: to set and cancel one for each would cost as much as parsing it."""

    def _watch(self) -> None:
        self._used = False
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        if self._used or not self.cycle.response_complete:
            self._watch()
        else:
            super().timeout_keep_alive_handler()


def _parse(url: bytes) -> tuple[str, bytes, bytes]:
    """Path, the path as it came, and query."""
    parsed = httptools.parse_url(url)
    raw: bytes = parsed.path
    path = raw.decode("ascii")
    return unquote(path) if "%" in path else path, raw, parsed.query or b""


_known = lru_cache(512)(_parse)


def _parts(url: bytes) -> tuple[str, bytes, bytes]:
    return _known(url) if len(url) < 256 else _parse(url)

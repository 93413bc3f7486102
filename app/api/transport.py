"""Uvicorn's HTTP protocol, but the head of an answer leaves together with its body."""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


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


#: In the scope of a request: the task to cancel when its client hangs up, and that it has.
CANCEL, GONE = "pilothouse.cancel", "pilothouse.gone"


class Protocol(HttpToolsProtocol):
    """Also cancels what is computed for a client that hangs up, where the application has asked for it."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(_Joined(transport))  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.cycle and not self.cycle.response_complete:
            scope = cast(dict[str, Any], self.cycle.scope)
            scope[GONE] = True
            if task := scope.get(CANCEL):
                task.cancel()

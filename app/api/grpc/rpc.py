"""One call as the operations see it: its metadata, its deadline, and what is told at its end."""

from typing import Any

import grpc.aio

from app.api.grpc import status
from app.dataplane.caching.control import Caller

_REQUEST_ID = "x-request-id"
_LONGEST_ID = 128


class Rpc:
    """``new_id`` is for a client that sent none."""

    __slots__ = ("_context", "_told", "caller", "id")

    def __init__(self, context: grpc.aio.ServicerContext, new_id: str):
        self._context = context
        self.id: str = self.metadata(_REQUEST_ID)[:_LONGEST_ID] or new_id
        self.caller = Caller(self.header)
        self._told: list[tuple[str, str]] = [(_REQUEST_ID, self.id)]

    def metadata(self, name: str) -> str:
        """The first text under ``name``, or an empty one."""
        for key, value in self._context.invocation_metadata() or ():
            if key == name and isinstance(value, str):
                return value
        return ""

    def header(self, name: bytes) -> bytes | None:
        """As of an HTTP request."""
        return self.metadata(name.decode()).encode() or None

    @property
    def remaining_s(self) -> float | None:
        """Until the client's deadline; `None`: it has none."""
        left: float | None = self._context.time_remaining()
        return left

    def tell(self, name: str, value: str) -> None:
        """In the trailing metadata."""
        self._told.append((name, value))

    def end(self) -> None:
        """Before the answer is returned."""
        if self.caller.outcome:
            self.tell("x-cache", self.caller.outcome)
        self._context.set_trailing_metadata(self._told)

    async def abort(self, error: Exception, method: str) -> Any:
        """Never returns."""
        known = status.known(error, method)
        await self._context.abort(status.code(known), status.text(known), (*self._told, *status.retry(known)))

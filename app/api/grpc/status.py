"""One error as a gRPC status, with what a client may do about it in the trailing metadata."""

import logging

from grpc import StatusCode

from app.errors import PilothouseError

log = logging.getLogger(__name__)

#: Of a message. It travels in the trailing metadata, of which clients take 8 KiB, and each byte of it may become three.
MOST_BYTES = 2048

_CODES = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    405: StatusCode.UNIMPLEMENTED,
    409: StatusCode.FAILED_PRECONDITION,
    413: StatusCode.RESOURCE_EXHAUSTED,
    429: StatusCode.UNAVAILABLE,  # what gRPC's clients retry
    501: StatusCode.UNIMPLEMENTED,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
    507: StatusCode.RESOURCE_EXHAUSTED,
}


def known(error: Exception, method: str) -> PilothouseError:
    """What is no `PilothouseError` is our defect: logged, told without trace."""
    if isinstance(error, PilothouseError):
        return error
    log.error("unexpected error in %s", method, exc_info=error)
    return PilothouseError("an unexpected error in Pilothouse; the log has the details")


def code(error: PilothouseError) -> StatusCode:
    return _CODES.get(error.status, StatusCode.INTERNAL)


def text(error: PilothouseError) -> str:
    """What is longer than `MOST_BYTES` is cut."""
    words = (f"{error.message}; {error.hint}" if error.hint else error.message).encode(errors="replace")
    return words.decode() if len(words) <= MOST_BYTES else words[:MOST_BYTES].decode(errors="ignore") + "…"


def retry(error: PilothouseError) -> tuple[tuple[str, str], ...]:
    """When to come again: for people in seconds as over HTTP, and as gRPC's own retry policies read it (gRFC A6)."""
    if error.retry_after_s is None:
        return ()
    seconds = max(1, round(error.retry_after_s))
    return ("retry-after", str(seconds)), ("grpc-retry-pushback-ms", str(seconds * 1000))

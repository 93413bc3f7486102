"""The ASGI application: read, guard, route, answer."""

import asyncio
import contextlib
import itertools
import secrets
from contextlib import aclosing
from typing import Any

from msgspec.structs import replace

from app.api import errors
from app.api.auth import Guard
from app.api.http import (
    COMPRESS_BYTES,
    Request,
    Response,
    Route,
    Router,
    Stream,
    choose_encoding,
    deflate,
    inflate,
)
from app.api.transport import CANCEL, EXCHANGE, GONE, Headers
from app.dataplane.caching.control import CALLER, Caller
from app.errors import NotReady, PayloadTooLarge
from app.settings import Settings

_TOO_LONG = 128
#: What is answered to the end.
_ALIVE = ("/health", "/health/live", "/v2/health/live")
#: What takes longer to compress than to hand over to a thread, by far.
_SLOW_BYTES = 64 << 10


class Server:
    """The application that uvicorn runs."""

    def __init__(self, routes: list[Route], settings: Settings):
        self._router = Router(routes)
        self._guard = Guard(settings)
        self._max_body = settings.max_body_mb << 20
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self._answering = 0
        self._leaving = False
        self._idle = asyncio.Event()

    async def drain(self, seconds: float) -> None:
        """From now on refuse what comes; returns when what had come is answered, at most ``seconds`` later."""
        self._leaving = True
        if self._answering:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._idle.wait()

    def hurry(self) -> None:
        """Do not wait any longer in `drain`."""
        self._idle.set()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope)
        given = request.header(b"x-request-id")
        request.id = given.decode("latin-1")[:_TOO_LONG] if given else f"{self._prefix}-{next(self._numbers)}"
        extra: Headers = [(b"x-request-id", request.id.encode("latin-1"))]
        if request.path.startswith("/v1/messages"):
            extra.append((b"request-id", extra[0][1]))  # as Anthropic's clients read it
        self._answering += 1
        try:
            if request.method == "OPTIONS" and request.header(b"access-control-request-method"):
                extra += self._guard.check(request, "open")
                await _send(scope, send, _preflight(request), extra)
                return
            route = self._router.find(request)
            extra += self._guard.check(request, route.scope)
            if self._leaving and request.path not in _ALIVE:
                raise NotReady("Pilothouse is stopping", hint="retry when it has started again")
            message = await receive()
            if message.get("more_body") or request.header(b"content-encoding"):
                request.body = await self._read_on(request, message, receive)
            else:
                request.body = message.get("body", b"")
                if len(request.body) > self._max_body:
                    raise self._too_large()
            caller = Caller(request.header)
            CALLER.set(caller)
            if route.cancellable:
                if GONE in scope:
                    return
                scope[CANCEL] = True
            if route.stream:
                await _cancel_on_disconnect(_answer(route, request, caller, scope, send, extra), receive)
            else:
                await _answer(route, request, caller, scope, send, extra)
        except asyncio.CancelledError:
            if GONE not in scope:
                raise
        except Exception as error:
            await _send(scope, send, errors.render(error, request.path), extra)
        finally:
            self._answering -= 1
            if self._leaving and not self._answering:
                self._idle.set()

    async def _read_on(self, request: Request, message: dict[str, Any], receive: Any) -> bytes:
        """A body of which ``message`` has the first part, or one that is compressed."""
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            declared = request.header(b"content-length")
            if declared and declared.isdigit() and int(declared) > self._max_body:
                raise self._too_large()
            parts, size = [body], len(body)
            while message.get("more_body"):
                message = await receive()
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > self._max_body:
                    raise self._too_large()
            body = b"".join(parts)
        if body and (encoding := request.header(b"content-encoding")) and encoding != b"identity":
            body = await asyncio.to_thread(inflate, body, encoding, self._max_body)
        return body

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"the body is larger than {self._max_body >> 20} MiB", hint="raise max_body_mb")


async def _answer(
    route: Route, request: Request, caller: Caller, scope: dict[str, Any], send: Any, extra: Headers
) -> None:
    answer = await route.handler(request)
    if caller.outcome:
        extra.append((b"x-cache", caller.outcome.encode()))
    if isinstance(answer, Stream):
        await _send_stream(send, answer, extra)
        return
    if len(answer.body) >= COMPRESS_BYTES and (accepted := request.header(b"accept-encoding")):
        answer = await _compressed(answer, choose_encoding(accepted))
    await _send(scope, send, answer, extra)


def _preflight(request: Request) -> Response:
    headers = request.header(b"access-control-request-headers") or b"content-type, authorization"
    return Response(
        b"",
        204,
        headers=[
            (b"access-control-allow-methods", b"GET, POST, PUT, DELETE"),
            (b"access-control-allow-headers", headers),
            (b"access-control-max-age", b"600"),
        ],
    )


async def _compressed(response: Response, encoding: bytes) -> Response:
    vary = (b"vary", b"accept-encoding")
    if encoding:
        if len(response.body) < _SLOW_BYTES:
            body = deflate(response.body, encoding)
        else:  # zlib gives up the interpreter while it works
            body = await asyncio.to_thread(deflate, response.body, encoding)
        if body is not None:
            headers = [*response.headers, (b"content-encoding", encoding), vary]
            return replace(response, body=body, headers=headers)
    return replace(response, headers=[*response.headers, vary])


async def _send(scope: dict[str, Any], send: Any, response: Response, extra: Headers) -> None:
    headers = [(b"content-type", response.content_type), *response.headers, *extra]
    exchange = scope.get(EXCHANGE)
    if exchange is not None and exchange.answer(response.status, headers, response.body):
        return
    headers.append((b"content-length", b"%d" % len(response.body)))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


async def _send_stream(send: Any, stream: Stream, extra: Headers) -> None:
    """Once the headers are out an error can only be told inside the stream: its source does that."""
    headers = [(b"content-type", stream.content_type), (b"cache-control", b"no-store"), *stream.headers, *extra]
    async with stream.resources, aclosing(stream.chunks) as chunks:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _cancel_on_disconnect(work: Any, receive: Any) -> None:
    """Run ``work``; when the client hangs up first, cancel it, so that what it holds is free at once."""
    task = asyncio.ensure_future(work)

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        await task
    except asyncio.CancelledError:
        if not watcher.done():  # not the client: we are being stopped
            task.cancel()
            raise
    finally:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher

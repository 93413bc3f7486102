"""The HTTP protocol over real sockets: what uvicorn's own would do, by the shorter way."""

import asyncio
import gc
import weakref

import pytest
import uvicorn

from app.api.http import Request, Response, Route, Stream
from app.api.server import Server
from app.api.transport import Exchange, Protocol
from app.settings import Settings

IDLE_S = 0.2


async def echo(request):
    return Response(request.body or b"nothing", headers=[(b"x-path", request.path.encode())])


async def pieces(request):
    async def chunks():
        yield b"one "
        yield b"two"

    return Stream(chunks())


@pytest.fixture
async def ask(monkeypatch):
    """``ask(bytes)`` sends to a new connection: reader, writer. ``ask.kept`` has the exchanges that are not freed."""
    kept = weakref.WeakSet()

    class Watched(Request):
        def __init__(self, scope):
            super().__init__(scope)
            kept.add(scope["pilothouse.exchange"])

    monkeypatch.setattr("app.api.server.Request", Watched)
    routes = [
        Route("POST", "/echo", echo, "", "", scope="open"),
        Route("GET", "/echo/{name}", echo, "", "", scope="open"),
        Route("GET", "/pieces", pieces, "", "", scope="open", stream=True),
    ]
    config = uvicorn.Config(
        Server(routes, Settings()), http=Protocol, port=0, lifespan="off", log_config=None, access_log=False,
        timeout_keep_alive=IDLE_S, date_header=False, server_header=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    sock = config.bind_socket()
    serving = asyncio.create_task(server.serve([sock]))
    writers = []

    async def ask(data):
        reader, writer = await asyncio.open_connection("127.0.0.1", sock.getsockname()[1])
        writers.append(writer)
        writer.write(data)
        return reader, writer

    ask.kept = kept
    async with asyncio.timeout(20):
        yield ask
        for writer in writers:
            writer.close()
        server.should_exit = True
        await serving
    sock.close()


async def answer(reader):
    """Status, headers, body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


async def test_requests_of_one_connection_are_answered_in_turn_however_they_come(ask):
    one = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\n"
    reader, writer = await ask(one + b"abc" + one + b"def" + one[:20])
    assert (await answer(reader))[2] == b"abc"
    assert (await answer(reader))[2] == b"def"
    writer.write(one[20:] + b"g")
    writer.write(b"hi")
    status, headers, body = await answer(reader)
    assert (status, body, headers["x-path"]) == (200, b"ghi", "/echo")


async def test_a_large_body_and_one_that_waits_to_be_asked_for(ask):
    reader, writer = await ask(
        b"POST /echo HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 300000\r\n\r\n"
    )
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"x" * 300_000)
    assert (await answer(reader))[2] == b"x" * 300_000


async def test_the_head_alone_and_what_is_not_allowed(ask):
    reader, _ = await ask(
        b"HEAD /echo HTTP/1.1\r\nhost: localhost\r\n\r\nGET /echo/a HTTP/1.1\r\nhost: localhost\r\n\r\n"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 405 " in head and b"allow: POST" in head
    status, _, body = await answer(reader)  # nothing of a body was between them
    assert (status, body) == (200, b"nothing")


@pytest.mark.parametrize("how", [b"HTTP/1.0\r\n", b"HTTP/1.1\r\nconnection: close\r\n"])
async def test_a_connection_that_is_not_to_be_kept_is_closed_behind_the_answer(ask, how):
    reader, _ = await ask(b"GET /echo/a " + how + b"host: localhost\r\n\r\n")
    status, headers, _ = await answer(reader)
    assert (status, headers["connection"]) == (200, "close")
    assert await reader.read() == b""


async def test_an_idle_connection_is_closed_but_not_one_that_is_used(ask):
    request = b"GET /echo/a HTTP/1.1\r\nhost: localhost\r\n\r\n"
    idle, _ = await ask(request)
    await answer(idle)
    busy, writer = await ask(request)
    gone = asyncio.create_task(idle.read())
    while not gone.done():  # asks all the while
        await answer(busy)
        writer.write(request)
    assert gone.result() == b"" and not busy.at_eof()
    await answer(busy)


async def test_a_stream_goes_by_its_messages(ask):
    reader, _ = await ask(b"GET /pieces HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert b"transfer-encoding: chunked" in await reader.readuntil(b"\r\n\r\n")
    assert await reader.readuntil(b"0\r\n\r\n") == b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n"


async def test_what_was_answered_is_freed_without_a_collection(ask):
    gc.disable()
    try:
        reader, writer = await ask(b"")
        for _ in range(20):
            writer.write(
                b"GET /echo/a HTTP/1.1\r\nhost: localhost\r\n\r\nGET /none HTTP/1.1\r\nhost: localhost\r\n\r\n"
            )
            assert [(await answer(reader))[0] for _ in range(2)] == [200, 404]
        assert len(ask.kept) <= 2  # the last one is the connection's
        assert all(isinstance(exchange, Exchange) for exchange in ask.kept)
    finally:
        gc.enable()


async def test_what_is_no_http_is_refused(ask):
    reader, _ = await ask(b"\x16\x03\x01 nonsense\r\n\r\n")
    assert b" 400 " in await reader.read()

"""Reading, guarding, routing and answering, over the real ASGI interface."""

import asyncio
import gzip
import random
import zlib

import httpx2
import pytest
import uvicorn

from app.api.http import Response, Route, Stream, json
from app.api.server import Server
from app.api.transport import Protocol
from app.errors import BadSetting, QueueFull
from app.settings import Settings


async def echo(request):
    return json({"params": request.params, "size": len(request.body), "query": request.query})


async def full(request):
    raise QueueFull("busy")


async def broken(request):
    raise RuntimeError("a secret detail")


ROUTES = [
    Route("GET", "/open/{name}", echo, "", "", scope="open"),
    Route("POST", "/v1/echo", echo, "", "", scope="inference"),
    Route("POST", "/v2/full", full, "", "", scope="inference"),
    Route("POST", "/v1/full", full, "", "", scope="inference"),
    Route("GET", "/manage/v1/things/{thing}", echo, "", ""),
    Route("GET", "/manage/v1/broken", broken, "", ""),
]


@pytest.fixture
async def client():
    clients = []

    def make(**settings):
        transport = httpx2.ASGITransport(app=Server(ROUTES, Settings(**settings)))
        clients.append(httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8484"))
        return clients[-1]

    yield make
    for entry in clients:
        await entry.aclose()


async def test_a_path_gives_its_parameters_and_query(client):
    answer = await client().get("/open/a%20b?x=1&y=")
    assert answer.json() == {"params": {"name": "a b"}, "size": 0, "query": {"x": "1", "y": ""}}


async def test_every_answer_has_the_callers_request_id_or_one_of_ours(client):
    http = client()
    assert (await http.get("/open/a", headers={"x-request-id": "mine"})).headers["x-request-id"] == "mine"
    ours = {(await http.get("/nowhere")).headers["x-request-id"] for _ in range(3)}
    assert len(ours) == 3


async def test_unknown_paths_and_methods_are_told_in_the_envelope_of_the_protocol(client):
    http = client()
    assert (await http.get("/manage/v1/nothing")).json()["error"]["code"] == "not_found"
    assert (await http.get("/v1/nothing")).json()["error"]["type"] == "not_found_error"
    assert isinstance((await http.get("/v2/nothing")).json()["error"], str)
    answer = await http.delete("/v1/echo")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


async def test_a_full_queue_is_429_or_on_v2_503_with_retry_after(client):
    http = client()
    for path, status in (("/v1/full", 429), ("/v2/full", 503)):
        answer = await http.post(path)
        assert answer.status_code == status
        assert int(answer.headers["retry-after"]) >= 1


async def test_a_defect_of_ours_shows_no_detail(client):
    answer = await client().get("/manage/v1/broken")
    assert answer.status_code == 500
    assert "secret" not in answer.text


async def test_a_body_over_the_limit_is_413_and_one_below_is_read(client):
    http = client(max_body_mb=1)
    assert (await http.post("/v1/echo", content=b"x" * (1 << 20))).json()["size"] == 1 << 20
    assert (await http.post("/v1/echo", content=b"x" * ((1 << 20) + 1))).status_code == 413


async def test_a_compressed_body_is_inflated_and_bounded(client):
    http = client(max_body_mb=1)
    answer = await http.post("/v1/echo", content=gzip.compress(b"x" * 5000), headers={"content-encoding": "gzip"})
    assert answer.json()["size"] == 5000
    bomb = gzip.compress(b"x" * (4 << 20))
    assert (await http.post("/v1/echo", content=bomb, headers={"content-encoding": "gzip"})).status_code == 413
    assert (await http.post("/v1/echo", content=b"x", headers={"content-encoding": "gzip"})).status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.1:8484", "localhost:1", "[::1]:8484", "LOCALHOST"])
async def test_names_of_this_server_are_accepted(client, host):
    assert (await client().get("/open/a", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8484", "127.0.0.1.evil.example", ""])
async def test_other_hosts_are_refused_against_rebinding(client, host):
    answer = await client().get("/open/a", headers={"host": host})
    assert answer.status_code == 403


async def test_pages_of_other_origins_are_refused_unless_allowed(client):
    http = client(allowed_origins="http://app.example")
    assert (await http.get("/open/a", headers={"origin": "http://evil.example"})).status_code == 403
    answer = await http.get("/open/a", headers={"origin": "http://app.example"})
    assert answer.headers["access-control-allow-origin"] == "http://app.example"
    assert (await http.get("/open/a", headers={"origin": "http://127.0.0.1:8484"})).status_code == 200
    preflight = {"origin": "http://app.example", "access-control-request-method": "POST"}
    assert (await http.options("/v1/echo", headers=preflight)).status_code == 204


async def test_keys_have_scopes(client):
    http = client(api_key="infer", management_key="manage")

    async def status(method, path, key):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return (await http.request(method, path, headers=headers)).status_code

    assert await status("GET", "/open/a", "") == 200
    assert await status("POST", "/v1/echo", "") == 401
    assert await status("POST", "/v1/echo", "wrong") == 401
    assert await status("POST", "/v1/echo", "infer") == 200
    assert await status("POST", "/v1/echo", "manage") == 200
    assert await status("GET", "/manage/v1/things/a", "infer") == 403
    assert await status("GET", "/manage/v1/things/a", "manage") == 200
    assert (await http.post("/v1/echo", headers={"x-api-key": "infer"})).status_code == 200


def test_listening_beyond_loopback_needs_keys():
    with pytest.raises(BadSetting):
        Server(ROUTES, Settings(host="0.0.0.0"))
    Server(ROUTES, Settings(host="0.0.0.0", api_key="a", management_key="b"))


async def test_a_client_that_hangs_up_cancels_the_handler_and_releases_its_resources():
    released = asyncio.Event()
    begun = asyncio.Event()

    async def chunks():
        try:
            yield b"first"
            begun.set()
            await asyncio.Event().wait()
        finally:
            released.set()

    async def stream(request):
        return Stream(chunks())

    server = Server([Route("GET", "/s", stream, "", "", stream=True, scope="open")], Settings())
    sent = []

    async def receive():
        if not sent:
            return {"type": "http.request", "body": b""}
        await begun.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/s", "query_string": b"", "headers": [(b"host", b"localhost")]}
    async with asyncio.timeout(5):
        await server(scope, receive, send)
    assert released.is_set()


# --- compression of answers ------------------------------------------------------------------------------


async def long(request):
    return json("word " * 1000)


async def noise(request):
    return Response(random.Random(1).randbytes(200_000))


LONG = [Route("GET", "/long", long, "", "", scope="open"), Route("GET", "/noise", noise, "", "", scope="open")]
LONG.append(Route("GET", "/open/{name}", echo, "", "", scope="open"))


async def answered(path, accepted):
    async with (
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=Server(LONG, Settings())), base_url="http://127.0.0.1:8484"
        ) as http,
        http.stream("GET", path, headers={"accept-encoding": accepted}) as answer,
    ):
        return answer, b"".join([part async for part in answer.aiter_raw()])


@pytest.mark.parametrize(
    ("accepted", "encoding", "inflated"),
    [
        ("gzip", "gzip", gzip.decompress),
        ("deflate", "deflate", zlib.decompress),
        ("br, DEFLATE;q=0.5, gzip;q=0.1", "deflate", zlib.decompress),
        ("*", "gzip", gzip.decompress),
        ("identity", None, bytes),
        ("gzip;q=0, deflate;q=0", None, bytes),
        ("gzip;q=much", None, bytes),
    ],
)
async def test_a_long_answer_is_compressed_as_the_client_likes_it_best(accepted, encoding, inflated):
    answer, body = await answered("/long", accepted)
    assert answer.headers.get("content-encoding") == encoding
    assert answer.headers["vary"] == "accept-encoding"
    assert int(answer.headers["content-length"]) == len(body)
    assert inflated(body) == b'"' + b"word " * 1000 + b'"'


async def test_what_is_short_or_does_not_shrink_is_sent_as_it_is():
    for path in ("/open/a", "/noise"):
        answer, _ = await answered(path, "gzip")
        assert "content-encoding" not in answer.headers


# --- clients that hang up --------------------------------------------------------------------------------


@pytest.fixture
async def listening():
    """A real socket, as the daemon's: (port, what the handlers did)."""
    happened = asyncio.Queue()

    async def forever(request):
        happened.put_nowait("begun")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            happened.put_nowait("cancelled")
            raise

    routes = [Route("GET", "/forever", forever, "", "", scope="open", cancellable=True), *LONG]
    config = uvicorn.Config(
        Server(routes, Settings()), http=Protocol, port=0, lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    sock = config.bind_socket()
    serving = asyncio.create_task(server.serve([sock]))
    yield sock.getsockname()[1], happened
    server.should_exit = True
    await serving
    sock.close()


async def test_a_client_that_hangs_up_cancels_what_is_computed_for_it_and_nothing_else(listening, caplog):
    port, happened = listening
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(10):
        writer.write(b"GET /open/a HTTP/1.1\r\nhost: localhost\r\n\r\n")  # answered: not to be cancelled later
        assert b"200" in await reader.readline()
        writer.write(b"GET /forever HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert await happened.get() == "begun"
        writer.close()
        assert await happened.get() == "cancelled"
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize(
    ("path", "name"), [("/open/a%2Fb", "a/b"), ("/open/a%2fb%20c", "a/b c"), ("/open/%C3%BC", "ü")]
)
async def test_what_is_percent_encoded_stays_within_its_segment(client, path, name):
    assert (await client().get(path)).json()["params"] == {"name": name}

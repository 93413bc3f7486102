"""Images on other servers: fetched from a real server, and refused wherever they could be a way into this network."""

import asyncio
import contextlib

import pytest

from app.api import images
from app.api.images import Images, is_public
from app.api.messages import RemoteImage
from app.errors import InvalidInput


@contextlib.asynccontextmanager
async def server(answers):
    """Gives for each path what ``answers`` says: (status, headers, body), and with a body of None says no more until
    the client leaves. Yields its address and the heads that it saw."""
    seen = []
    tasks = []

    async def serve(reader, writer):
        tasks.append(asyncio.current_task())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:  # the client had given up before it asked
            writer.close()
            return
        seen.append(head)
        status, headers, body = answers[head.split()[1]]
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with contextlib.suppress(ConnectionError):
            writer.write(f"HTTP/1.1 {status} X\r\nconnection: close\r\n{lines}\r\n".encode() + (body or b""))
            await writer.drain()
            if body is None:
                await reader.read()
            writer.close()
            await writer.wait_closed()

    started = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://localhost:{started.sockets[0].getsockname()[1]}", seen
    finally:
        started.close()
        await asyncio.gather(*tasks)
        await started.wait_closed()


def remote(url):
    return RemoteImage(url, "messages[0].content[0].image_url.url")


def anywhere(address):
    return True


async def refused(loader, url, *words):
    with pytest.raises(InvalidInput) as caught:
        await loader.load([remote(url)])
    assert caught.value.field == "messages[0].content[0].image_url.url"
    assert all(word in caught.value.message + caught.value.hint for word in words), caught.value.message


async def test_images_in_the_request_pass_and_remote_ones_need_the_setting():
    assert await Images().load([b"a", b"b"]) == [b"a", b"b"]
    await refused(Images(), "https://example.org/x.png", "allow_remote_images")


async def test_an_image_is_fetched_under_its_own_name_and_keeps_its_place():
    async with server({"/a?b=1": (200, {}, b"image"), "/hop": (302, {"location": "/a?b=1"}, b"")}) as (url, seen):
        loader = Images(True, anywhere)
        assert await loader.load([b"first", remote(f"{url}/a?b=1#part"), remote(f"{url}/hop")]) == [
            b"first",
            b"image",
            b"image",
        ]
    assert f"host: {url.removeprefix('http://')}" in seen[0].lower()


async def test_an_address_of_this_network_is_refused_unasked():
    async with server({"/": (200, {}, b"secret")}) as (url, seen):
        for target in (url, url.replace("localhost", "127.0.0.1"), url.replace("localhost", "[::1]")):
            await refused(Images(True), f"{target}/", "public")
    assert seen == []


async def test_a_redirect_into_this_network_is_refused():
    async with (
        server({"/": (200, {}, b"secret")}) as (inner, reached),
        server({"/x": (302, {"location": f"{inner}/".replace("localhost", "127.0.0.1")}, b"")}) as (outer, _),
    ):
        allowed = [True]
        loader = Images(True, lambda address: allowed.pop() if allowed else False)
        await refused(loader, f"{outer}/x", "public")
    assert reached == []


async def test_what_is_no_image_of_bearable_size_is_refused(monkeypatch):
    monkeypatch.setattr(images, "MOST_BYTES", 1000)
    answers = {
        "/big": (200, {}, b"x" * 1001),
        "/gone": (404, {}, b""),
        "/loop": (302, {"location": "/loop"}, b""),
        "/file": (302, {"location": "file:///etc/passwd"}, b""),
    }
    async with server(answers) as (url, seen):
        loader = Images(True, anywhere)
        await refused(loader, f"{url}/big", "larger")
        await refused(loader, f"{url}/gone", "404")
        await refused(loader, f"{url}/loop", "redirects")
        await refused(loader, f"{url}/file", "http")
    assert len(seen) == 1 + 1 + images.REDIRECTS + 1 + 1
    await refused(loader, f"{url}/gone", "could not be fetched")  # nobody listens any more
    await refused(loader, "http://", "http")
    await refused(loader, "http://x:99999999/", "http")
    await refused(loader, "http://no-such-host.invalid/", "no host")


async def test_a_server_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(images, "TIMEOUT_S", 0.05)
    async with server({"/": (200, {"content-length": "5"}, None)}) as (url, _):
        await refused(Images(True, anywhere), f"{url}/", "within")


async def test_there_is_a_limit_to_how_many(monkeypatch):
    with pytest.raises(InvalidInput):
        await Images(True).load([remote("http://a/")] * (images.MOST_IMAGES + 1))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "2002:7f00:1::",
    ],
)
def test_addresses_that_are_not_of_the_internet(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111"])
def test_addresses_of_the_internet(address):
    assert is_public(address)

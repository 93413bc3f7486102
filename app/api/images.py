"""Images that a request only points to. Fetching them for a caller makes us his hands inside our own network, so it
is off unless the setting ``allow_remote_images`` is on, and even then only public addresses are reached."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from urllib.parse import urljoin, urlsplit

import httpx2

from app.api.messages import RemoteImage
from app.errors import InvalidInput

MOST_BYTES = 20 << 20
MOST_IMAGES = 16
#: For all images of a request together.
TIMEOUT_S = 15.0
REDIRECTS = 3


def is_public(address: str) -> bool:
    """Whether ``address`` (an IP address) is one of the internet, not of this machine or a private network."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # An IPv4 address in disguise is judged as what it is.
        ip = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None) or ip
    return ip.is_global and not ip.is_multicast


class Images:
    """``reachable`` decides on each address before it is connected to."""

    def __init__(self, allowed: bool = False, reachable: Callable[[str], bool] = is_public):
        self._allowed, self._reachable = allowed, reachable

    async def load(self, media: Sequence[bytes | RemoteImage]) -> list[bytes]:
        """All of ``media`` as bytes, in order. Raises `InvalidInput` that names the place in the request."""
        remote = [image for image in media if isinstance(image, RemoteImage)]
        if not remote:
            return [image for image in media if isinstance(image, bytes)]
        if not self._allowed:
            raise InvalidInput(
                f"{remote[0].field}: images are not fetched from other servers",
                hint="send the image itself as a data URL, or turn the setting allow_remote_images on",
                field=remote[0].field,
            )
        if len(remote) > MOST_IMAGES:
            raise InvalidInput(f"at most {MOST_IMAGES} images are fetched for a request", field=remote[-1].field)
        loaded: list[bytes] = []
        try:
            async with asyncio.timeout(TIMEOUT_S), httpx2.AsyncClient(trust_env=False) as http:
                for image in media:
                    loaded.append(await self._fetch(http, image) if isinstance(image, RemoteImage) else image)
        except TimeoutError:
            raise InvalidInput(
                f"the images could not be fetched within {TIMEOUT_S:g} s", hint="send data URLs", field=remote[0].field
            ) from None
        return loaded

    async def _fetch(self, http: httpx2.AsyncClient, image: RemoteImage) -> bytes:
        """Follows redirects by hand: each hop is checked like the first."""
        url, field = image.url, image.field
        for _ in range(REDIRECTS + 1):
            request = await self._request(http, url, field)
            try:
                answer = await http.send(request, stream=True)
            except httpx2.HTTPError as error:
                raise InvalidInput(f"{field}: {url} could not be fetched: {error}", field=field) from None
            try:
                if answer.is_redirect:
                    url = urljoin(url, answer.headers.get("location", ""))
                    continue
                if answer.status_code != 200:
                    raise InvalidInput(f"{field}: {url} answered {answer.status_code}", field=field)
                return await _read(answer, field)
            except httpx2.HTTPError as error:
                raise InvalidInput(f"{field}: {url} could not be read: {error}", field=field) from None
            finally:
                await answer.aclose()
        raise InvalidInput(f"{field}: {image.url} redirects too often", field=field)

    async def _request(self, http: httpx2.AsyncClient, url: str, field: str) -> httpx2.Request:
        """A request to an address that was checked, not to a name: a name may mean another address a moment later."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            parts, host, port = None, "", None
        if parts is None or parts.scheme not in ("http", "https") or not host:
            raise InvalidInput(f"{field}: expected an http or https URL", field=field)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise InvalidInput(f"{field}: there is no host {host}", field=field) from None
        # IPv4 first: not every machine has a way out by IPv6.
        addresses = sorted((str(entry[4][0]) for entry in found), key=lambda address: ":" in address)
        if not addresses or not all(map(self._reachable, addresses)):
            raise InvalidInput(f"{field}: {host} is not an address of the public internet", field=field)
        address = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
        target = parts._replace(netloc=address if port is None else f"{address}:{port}", fragment="")
        headers = {"host": parts.netloc.rpartition("@")[2], "accept": "image/*"}
        return http.build_request("GET", target.geturl(), headers=headers, extensions={"sni_hostname": host})


async def _read(answer: httpx2.Response, field: str) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > MOST_BYTES:
            raise InvalidInput(f"{field}: the image is larger than {MOST_BYTES >> 20} MiB", field=field)
    return bytes(body)

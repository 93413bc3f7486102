"""Who may call: the Host header (against DNS rebinding), the Origin (against other web pages), the API keys."""

import hmac
import ipaddress
from typing import Protocol

from app.api.http import Request, Scope
from app.errors import BadSetting, Forbidden, Unauthorized
from app.settings import Settings

_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "[::1]"}


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _split(setting: str) -> set[str]:
    return {entry.strip().lower() for entry in setting.split(",") if entry.strip()}


class Headed(Protocol):
    """What a key is read from: a request of any protocol."""

    def header(self, name: bytes) -> bytes | None: ...


class Guard:
    """Raises `BadSetting` when the address needs a key and none is set."""

    def __init__(self, settings: Settings):
        if not is_loopback(settings.host) and not (settings.api_key and settings.management_key):
            raise BadSetting(
                f"listening on {settings.host} lets other machines in, which needs api_key and management_key",
                field="host",
                hint="set both in settings.toml, or keep to 127.0.0.1",
            )
        self._inference_key = settings.api_key.encode()
        self._management_key = settings.management_key.encode()
        self._hosts = (
            _LOOPBACK_NAMES | _split(settings.allowed_hosts) | {settings.host.lower(), f"[{settings.host.lower()}]"}
        )
        # Bound to every address, any name of this machine is a right one; the keys guard it then.
        self._any_host = settings.host in ("0.0.0.0", "::")
        self._origins = _split(settings.allowed_origins)
        self._seen_hosts: set[bytes] = set()

    def check(self, request: Request, scope: Scope) -> list[tuple[bytes, bytes]]:
        """The headers to add to the answer. Raises `Forbidden` or `Unauthorized`."""
        host = request.header(b"host")
        if host not in self._seen_hosts:
            self._check_host(host)
        origin = request.header(b"origin")
        headers = self._check_origin(origin.decode("latin-1").lower(), host) if origin else []
        self.check_key(request, scope)
        return headers

    def _check_host(self, host: bytes | None) -> None:
        name = (host or b"").decode("latin-1").lower()
        bare = name.rsplit(":", 1)[0] if not name.endswith("]") else name
        if not self._any_host and bare not in self._hosts and name not in self._hosts:
            raise Forbidden(
                f"the Host header {name!r} is not a name of this server",
                hint="use 127.0.0.1 or localhost, or add the name to allowed_hosts",
                code="host_not_allowed",
            )
        if host is not None and len(self._seen_hosts) < 64:
            self._seen_hosts.add(host)

    def _check_origin(self, origin: str, host: bytes | None) -> list[tuple[bytes, bytes]]:
        same = origin.partition("://")[2] == (host or b"").decode("latin-1").lower()
        if not same and "*" not in self._origins and origin not in self._origins:
            raise Forbidden(
                f"pages from {origin} may not call this server",
                hint="add it to allowed_origins",
                code="origin_not_allowed",
            )
        return [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"origin")]

    def check_key(self, request: Headed, scope: Scope) -> None:
        """Only whether the key is right. Raises `Forbidden` or `Unauthorized`."""
        if scope == "open" or not (self._inference_key or self._management_key):
            return
        given = request.header(b"x-api-key") or b""
        if not given and (authorization := request.header(b"authorization")):
            kind, _, value = authorization.partition(b" ")
            given = value.strip() if kind.lower() == b"bearer" else b""
        good = [self._management_key] if scope == "management" else [self._inference_key, self._management_key]
        if any(key and hmac.compare_digest(given, key) for key in good):
            return
        if not any(good):
            return  # no key guards this scope
        if given and self._inference_key and hmac.compare_digest(given, self._inference_key):
            raise Forbidden("this key is for inference only", hint="use the management key", code="scope")
        raise Unauthorized("a valid API key is needed", hint="send it as Authorization: Bearer KEY, or x-api-key")

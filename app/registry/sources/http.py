"""``https://…``: one file from any server; ``…#sha256=…`` says what it must be."""

import ipaddress
import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urldefrag, urlsplit

from app.errors import InvalidInput, SourceUnreachable
from app.registry.sources.plan import Output, Part, Plan, Remote, Wanted
from app.settings import Settings


def check(url: str) -> str:
    """``url`` itself if it may be fetched: HTTPS, or plain HTTP from this machine. Raises `InvalidInput`."""
    parts = urlsplit(url)
    if not parts.hostname or not PurePosixPath(parts.path).name:
        raise InvalidInput(f"{url!r} does not name a file on a server", field="ref")
    if parts.username or parts.password:
        raise InvalidInput("an address with a password in it would be kept and shown", field="ref")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise InvalidInput(
            "plain http:// is allowed only from this machine: on the way anyone could change the file",
            hint=f"use https://{url.partition('://')[2]}",
            field="ref",
        )
    return url


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def plan(wanted: Wanted, settings: Settings) -> Plan:
    """Raises `SourceUnreachable` when offline, `InvalidInput` for a digest that is none."""
    url, fragment = urldefrag(check(wanted.ref))
    host = urlsplit(url).hostname or ""
    if settings.offline and not is_loopback(host):
        raise SourceUnreachable(f"{host} was not asked: offline is set", hint="unset PILOTHOUSE_OFFLINE")
    sha256 = wanted.sha256
    if fragment:
        if not (match := re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)):
            raise InvalidInput(f"#{fragment} is not #sha256= and 64 hexadecimal digits", field="ref")
        sha256 = match[1].lower()
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return Plan(
        source=wanted.ref,
        remotes=[Remote(url, name)],
        outputs=[Output(name, [Part(0)], sha256=sha256)],
    )

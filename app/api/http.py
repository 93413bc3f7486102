"""Requests, responses and the route table, over bare ASGI: nothing here knows a protocol.

A framework would cost half of the throughput (see docs/performance.md), and what is needed of one is small.
"""

import re
import time
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec

from app.errors import InvalidInput, MethodNotAllowed, NotFound, PayloadTooLarge

T = TypeVar("T")
Scope = Literal["open", "inference", "management"]

_MISSING = re.compile("Object missing required field `(.+)`")
#: Python refuses to read very long numbers; no honest one has more digits.
MOST_DIGITS = 18


class Request:
    """One HTTP request with its whole body. ``params`` are the values of the braces in the route's path."""

    __slots__ = (
        "__dict__", "_headers", "arrived", "body", "id", "method", "params", "path", "query_string", "raw_path",
    )  # fmt: skip

    def __init__(self, scope: dict[str, Any]):
        self.arrived = time.perf_counter()
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw_path: bytes = scope.get("raw_path") or b""
        self.query_string: bytes = scope["query_string"]
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.params: dict[str, str] = {}
        self.body = b""
        self.id = ""

    def segments(self) -> list[str]:
        """Of the path; a slash that was percent-encoded is part of its segment."""
        if b"%2" in self.raw_path:
            return [unquote(segment) for segment in self.raw_path.decode("latin-1").strip("/").split("/")]
        return self.path.strip("/").split("/")

    def header(self, name: bytes) -> bytes | None:
        """The first value of ``name`` (lower case)."""
        for key, value in self._headers:
            if key == name:
                return value
        return None

    @cached_property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.query_string.decode("latin-1"), keep_blank_values=True))

    def number(self, name: str, default: int, most: int) -> int:
        """A whole number of the query, 0 to ``most``. Raises `InvalidInput`."""
        text = self.query.get(name, "")
        if not text:
            return default
        if not text.isdecimal() or len(text) > MOST_DIGITS:
            raise InvalidInput(f"{name} must be a whole number, not {text!r}", field=name)
        return min(int(text), most)

    def decode(self, decoder: "msgspec.json.Decoder[T]") -> T:
        """Raises `InvalidInput` that names the field, what was expected and what came."""
        try:
            return decoder.decode(self.body)
        except msgspec.ValidationError as error:
            reason, _, where = str(error).partition(" - at `$")
            name = where.rstrip("`").lstrip(".")
            if missing := _MISSING.fullmatch(reason):
                name = f"{name}.{missing[1]}".lstrip(".")
                reason = "it is missing"
            raise InvalidInput(f"{name or 'body'}: {reason}", field=name) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInput(f"the body is not valid JSON: {error}") from None


class Response(msgspec.Struct):
    body: bytes = b""
    status: int = 200
    content_type: bytes = b"application/json"
    headers: list[tuple[bytes, bytes]] = []


@dataclass(slots=True)
class Stream:
    """A response that is sent as it comes; ``resources`` are closed when it ends, however it ends."""

    chunks: AsyncGenerator[bytes, None]
    content_type: bytes = b"text/event-stream; charset=utf-8"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    resources: AsyncExitStack = field(default_factory=AsyncExitStack)


Handler = Callable[[Request], Awaitable[Response | Stream]]


@dataclass(frozen=True)
class Route:
    """One operation. ``stream``: a client that hangs up cancels the handler. ``request`` is what its body is decoded
    as; `bytes`: the body itself."""

    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    request: Any = None
    response: Any = None
    status: int = 200
    stream: bool = False
    cancellable: bool = False
    """A client that hangs up cancels the handler, at next to no cost for those that stay; without a stream only."""
    scope: Scope = "management"
    query: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What each parameter of the query means, for the API's description."""


_encoder = msgspec.json.Encoder()


def json(value: Any, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> Response:
    return Response(_encoder.encode(value), status, headers=headers or [])


#: Paths that are found again without walking, and how long one of them may be.
_MOST_KNOWN, _LONG = 1024, 256


class Router:
    """Finds the route of a path by walking its segments; a segment in braces matches any one."""

    def __init__(self, routes: list[Route]):
        self.routes = routes
        self._root: dict[str, Any] = {}
        self._known: dict[tuple[str, bytes], tuple[Route, dict[str, str]]] = {}
        for route in routes:
            node = self._root
            for segment in route.path.strip("/").split("/"):
                node = node.setdefault("{" if segment.startswith("{") else segment, {})
            names = tuple(s[1:-1] for s in route.path.split("/") if s.startswith("{"))
            node.setdefault("", {})[route.method] = (route, names)

    def find(self, request: Request) -> Route:
        """Sets ``request.params``. Raises `NotFound` or `MethodNotAllowed`."""
        asked = request.method, request.raw_path
        if (known := self._known.get(asked)) is not None:
            request.params = known[1].copy()
            return known[0]
        node = self._root
        values = []
        for segment in request.segments():
            if segment in node:
                node = node[segment]
            elif "{" in node and segment:
                node = node["{"]
                values.append(segment)
            else:
                raise NotFound(f"there is nothing at {request.path}", hint="see /docs")
        methods = node.get("")
        if not methods:
            raise NotFound(f"there is nothing at {request.path}", hint="see /docs")
        if request.method not in methods:
            raise MethodNotAllowed(
                f"{request.path} takes {', '.join(methods)}, not {request.method}", details={"allow": list(methods)}
            )
        route: Route
        route, names = methods[request.method]
        request.params = dict(zip(names, values, strict=True))
        if len(self._known) < _MOST_KNOWN and 0 < len(request.raw_path) < _LONG:
            self._known[asked] = route, request.params.copy()
        return route


def inflate(body: bytes, encoding: bytes, limit: int) -> bytes:
    """A gzip or deflate body, decompressed to at most ``limit`` bytes."""
    if encoding not in (b"gzip", b"deflate"):
        raise InvalidInput(
            f"content-encoding {encoding.decode('latin-1')} is not known",
            hint="use gzip or deflate",
            field="content-encoding",
        )
    try:
        stream = zlib.decompressobj(47 if encoding == b"gzip" else 15)
        data = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidInput(f"the body is not {encoding.decode()}: {error}", field="content-encoding") from None
    if len(data) > limit:
        raise PayloadTooLarge(f"the decompressed body is larger than {limit >> 20} MiB", hint="raise max_body_mb")
    if not stream.eof:
        raise InvalidInput("the compressed body ends early", field="content-encoding")
    return data


#: A shorter answer is not worth compressing.
COMPRESS_BYTES = 1024
_SAMPLE_BYTES = 8192


def choose_encoding(accepted: bytes) -> bytes:
    """What an Accept-Encoding header likes best of gzip and deflate; empty: neither."""
    likes: dict[bytes, float] = {}
    for entry in accepted.lower().split(b","):
        name, _, weight = entry.partition(b";")
        try:
            likes[name.strip()] = float(weight.partition(b"=")[2]) if weight else 1.0
        except ValueError:
            likes[name.strip()] = 0.0
    rest = likes.get(b"*", 0.0)
    best = max((b"gzip", b"deflate"), key=lambda name: likes.get(name, rest))
    return best if likes.get(best, rest) > 0 else b""


def deflate(body: bytes, encoding: bytes) -> bytes | None:
    """``body`` as gzip or deflate (zlib's format, as everyone means it); `None` where it would hardly shrink, which
    the beginning of a large one tells."""
    if len(body) > 4 * _SAMPLE_BYTES and len(zlib.compress(body[:_SAMPLE_BYTES], 1)) > 0.9 * _SAMPLE_BYTES:
        return None
    data = zlib.compress(body, 1, wbits=31 if encoding == b"gzip" else 15)
    return data if len(data) < 0.9 * len(body) else None

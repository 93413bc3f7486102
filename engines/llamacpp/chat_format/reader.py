"""Reading a text that arrives in pieces, however they are cut, by code that reads as if it were whole.

Everything that may have to wait for more text is a generator: it yields where the text ends too early, and is called
with ``yield from``.
"""

import json
import re
from collections.abc import Callable, Generator, Iterable
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")
Reading = Generator[None, None, T]

_SPACE = re.compile(r"\s*")
_BREAK = re.compile(r"\s*\n\s*|(?<=>)(?=<)")
_STRING = re.compile(r'[^"\\]*')
_OTHER = re.compile(r'[^"{}\[\]]+')
_SCALAR = re.compile(r"[^\s,}\]]+")


@lru_cache(maxsize=1024)
def cores(literal: str) -> tuple[str, ...]:
    """The parts of ``literal`` that must be there as they are; between them white space may be or not."""
    return tuple(part for part in _BREAK.split(literal.strip()) if part)


class Stops:
    """A set of markers to look for in running text."""

    def __init__(self, markers: Iterable[str]):
        self.markers = sorted({marker for marker in markers if marker}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self.markers))) if self.markers else None
        self._beginnings = {marker[:n] for marker in self.markers for n in range(1, len(marker))}
        self._longest = max(map(len, self.markers), default=1) - 1
        self._longer = {m: [o for o in self.markers if o != m and o.startswith(m)] for m in self.markers}

    def find(self, text: str, at: int, closed: bool) -> tuple[str, int] | None:
        """The first marker from ``at`` on and where it is; None while it might still grow into a longer one."""
        found = self._pattern.search(text, at) if self._pattern else None
        if found is None:
            return None
        marker, start = found[0], found.start()
        if not closed and any(text.startswith(longer[: len(text) - start], start) for longer in self._longer[marker]):
            return None
        return marker, start

    def held(self, text: str, at: int) -> int:
        """Characters at the end of ``text`` that may be the beginning of a marker."""
        for n in range(min(self._longest, len(text) - at), 0, -1):
            if text[-n:] in self._beginnings:
                return n
        return 0


class Reader:
    """The text so far, and how far it is read."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.closed = False
        """Whether no more text comes."""
        self.keep = False
        """While set, what was read may be gone back to."""

    def compact(self) -> None:
        if self.at and not self.keep:
            self.text = self.text[self.at :]
            self.at = 0

    def peek(self) -> Reading[str]:
        """The next character; empty at the end."""
        while self.at >= len(self.text):
            if self.closed:
                return ""
            yield
        return self.text[self.at]

    def space(self) -> Reading[None]:
        """Skip white space."""
        while True:
            found = _SPACE.match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text) or self.closed:
                return
            yield

    def exact(self, literal: str) -> Reading[bool]:
        """Whether ``literal`` comes next; it is read if it does."""
        while len(self.text) - self.at < len(literal):
            if self.closed or not literal.startswith(self.text[self.at :]):
                return False
            yield
        if self.text.startswith(literal, self.at):
            self.at += len(literal)
            return True
        return False

    def literal(self, literal: str) -> Reading[bool]:
        """As `exact`, whatever the white space; where it does not come nothing is read."""
        before = self.at
        for part in cores(literal):
            yield from self.space()
            if not (yield from self.exact(part)):
                self.at = before
                return False
        return True

    def skip_beginning(self, literal: str) -> None:
        """Where the text ends within ``literal``: what there is of it. A marker that was cut off is no content."""
        rest = self.text[self.at :].strip()
        if self.closed and any(part.startswith(rest) for part in cores(literal)):
            self.at = len(self.text)

    def word(self, ends: str) -> Reading[str]:
        """The text up to white space or one of ``ends``."""
        begin = scan = self.at
        while True:
            while scan < len(self.text):
                if self.text[scan].isspace() or self.text[scan] in ends:
                    self.at = scan
                    return self.text[begin:scan]
                scan += 1
            if self.closed:
                self.at = scan
                return self.text[begin:scan]
            yield

    def prose(self, stops: Stops, sink: Callable[[str], None]) -> Reading[str]:
        """Give the text up to the first of ``stops`` to ``sink``, as it comes. The marker, which is not read; empty at
        the end."""
        while True:
            if found := stops.find(self.text, self.at, self.closed):
                marker, start = found
                if start > self.at:
                    sink(self.text[self.at : start])
                self.at = start
                return marker
            safe = len(self.text) - (0 if self.closed else stops.held(self.text, self.at))
            if safe > self.at:
                sink(self.text[self.at : safe])
                self.at = safe
            if self.closed:
                return ""
            self.compact()
            yield

    def until(self, stops: Stops) -> Reading[tuple[str, str]]:
        """(the text up to the first of ``stops``, the marker)."""
        parts: list[str] = []
        marker = yield from self.prose(stops, parts.append)
        return "".join(parts), marker

    def json_string(self) -> Reading[str | None]:
        """A JSON string, decoded; None where there is none."""
        parts: list[str] = []
        if (yield from self.peek()) != '"' or not (yield from self.json_value(parts.append)):
            return None
        try:
            value = json.loads("".join(parts), strict=False)
        except ValueError:
            return None
        return value if isinstance(value, str) else None

    def json_value(self, sink: Callable[[str], None]) -> Reading[bool]:
        """Give one JSON value to ``sink``, as written and as it comes. Whether it is complete."""
        depth = 0
        while True:
            character = yield from self.peek()
            if character == "":
                return False
            if character == '"':
                if not (yield from self._string(sink)):
                    return False
            elif character in "{[":
                depth += 1
                self._take(1, sink)
            elif character in "}]":
                if depth == 0:
                    return False
                depth -= 1
                self._take(1, sink)
            elif depth:
                found = _OTHER.match(self.text, self.at)
                self._take(len(found[0]) if found else 1, sink)
                continue
            else:
                return (yield from self._scalar(sink))
            if depth == 0:
                return True

    def _scalar(self, sink: Callable[[str], None]) -> Reading[bool]:
        some = False
        while found := _SCALAR.match(self.text, self.at):
            some = True
            self._take(len(found[0]), sink)
            if not (yield from self.peek()):
                break
        return some

    def _string(self, sink: Callable[[str], None]) -> Reading[bool]:
        self._take(1, sink)
        while True:
            found = _STRING.match(self.text, self.at)
            if found and found[0]:
                self._take(len(found[0]), sink)
            character = yield from self.peek()
            if character == "":
                return False
            if character == '"':
                self._take(1, sink)
                return True
            if character == "\\":
                while len(self.text) - self.at < 2:
                    if self.closed:
                        return False
                    yield
                self._take(2, sink)

    def _take(self, count: int, sink: Callable[[str], None]) -> None:
        sink(self.text[self.at : self.at + count])
        self.at += count
        if self.at == len(self.text):
            self.compact()

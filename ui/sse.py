"""Server-sent events: bytes in, events out (WHATWG HTML, section 9.2.6). Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    name: str
    data: str
    id: str | None = None


class Parser:
    """Feed it whatever arrives, split anywhere; it answers the events that are complete."""

    def __init__(self) -> None:
        self._rest = b""
        self._after_cr = False
        self._reset()

    def _reset(self) -> None:
        self._name, self._data = "", list[str]()
        self._id: str | None = None

    def feed(self, received: bytes) -> list[Event]:
        if self._after_cr and received.startswith(b"\n"):
            received = received[1:]
        if received:
            self._after_cr = received.endswith(b"\r")
        *lines, self._rest = (self._rest + received).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        events = []
        for line in lines:
            if event := self._line(line):
                events.append(event)
        return events

    def _line(self, line: bytes) -> Event | None:
        if not line:
            event = Event(self._name or "message", "\n".join(self._data), self._id) if self._data else None
            self._reset()
            return event
        field, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        elif field == "id" and "\0" not in value:
            self._id = value
        return None

"""The last hour, one sample a second, for charts that open with a past."""

import re
from collections import deque

import msgspec

from app.errors import InvalidInput, NotFound
from app.schema.manage import Hardware, RouteSample

#: Samples kept of each source: an hour at one a second.
LENGTH = 3600
_SOURCE = re.compile(r"hardware|route:(?P<route>.+)")


class TimeSeries:
    """Keeps samples as the JSON they are sent as: about 0.5 kB each, and no work when they are asked for."""

    def __init__(self, length: int = LENGTH):
        self._length = length
        self._samples: dict[str, deque[tuple[float, msgspec.Raw]]] = {}
        self._encoder = msgspec.json.Encoder()

    def append(self, source: str, now_s: float, sample: RouteSample | Hardware) -> None:
        """``source`` is ``hardware`` or ``route:NAME``; ``now_s`` the monotonic time of the sample."""
        samples = self._samples.get(source)
        if samples is None:
            samples = self._samples[source] = deque(maxlen=self._length)
        samples.append((now_s, msgspec.Raw(self._encoder.encode(sample))))

    def forget(self, source: str) -> None:
        self._samples.pop(source, None)

    def history(self, source: str, seconds: float, now_s: float) -> list[msgspec.Raw]:
        """The samples of the last ``seconds``, oldest first, each as JSON; at most `LENGTH` of them.

        Raises `InvalidInput` for what is no source or length of time, `NotFound` for a source never seen.
        """
        if not _SOURCE.fullmatch(source):
            raise InvalidInput(f"{source!r} is not a source", hint="hardware, or route:NAME", field="source")
        if not 1 <= seconds <= LENGTH:
            raise InvalidInput(f"seconds must be from 1 to {LENGTH}, not {seconds:g}", field="seconds")
        if source not in self._samples:
            raise NotFound(f"nothing was measured of {source} yet", hint="deploy it, or ask again in a second")
        return [sample for time_s, sample in self._samples[source] if time_s > now_s - seconds]

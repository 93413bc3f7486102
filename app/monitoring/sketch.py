"""Quantiles of durations with a bounded relative error, from counters that add up and subtract.

DDSketch (Masson, Rim & Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees",
PVLDB 12(12), 2019): bucket i counts the values in (γ^(i-1), γ^i], so any value in it is within α of the middle.
"""

from collections.abc import Iterable
from math import ceil, exp, log

#: Relative error α of every quantile.
ACCURACY = 0.01
_LOG_GAMMA = log((1 + ACCURACY) / (1 - ACCURACY))
_PER_LOG = 1 / _LOG_GAMMA
_MIDDLE = 2 / (1 + exp(_LOG_GAMMA))
#: Values outside are counted as the nearest of these: it bounds a sketch to about 1,300 counters.
SHORTEST_S, LONGEST_S = 1e-6, 1e5


class Sketch:
    """Durations in seconds. ``count`` and ``total_s`` are exact; quantiles and `cumulative` within `ACCURACY`."""

    __slots__ = ("_counts", "count", "total_s")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total_s = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count ``seconds`` ``count`` times."""
        self.count += count
        self.total_s += seconds * count
        index = ceil(log(min(max(seconds, SHORTEST_S), LONGEST_S)) * _PER_LOG)
        try:
            self._counts[index] += count
        except KeyError:
            self._counts[index] = count

    def copy(self) -> "Sketch":
        other = Sketch()
        other._counts, other.count, other.total_s = self._counts.copy(), self.count, self.total_s
        return other

    def merge(self, other: "Sketch") -> None:
        """Take in what ``other`` has counted."""
        for index, count in other._counts.items():
            self._counts[index] = self._counts.get(index, 0) + count
        self.count += other.count
        self.total_s += other.total_s

    def since(self, earlier: "Sketch") -> "Sketch":
        """What was counted after ``earlier``, a copy of this same sketch."""
        other = Sketch()
        before = earlier._counts
        other._counts = {
            index: added for index, count in self._counts.items() if (added := count - before.get(index, 0))
        }
        other.count, other.total_s = self.count - earlier.count, self.total_s - earlier.total_s
        return other

    def quantile(self, q: float) -> float | None:
        """Seconds within `ACCURACY` of the value of rank ``q * (count - 1)``; `None` when nothing was counted."""
        if not self.count:
            return None
        rank, seen, index = q * (self.count - 1), 0, 0
        for index in sorted(self._counts):
            seen += self._counts[index]
            if seen > rank:
                break
        return _MIDDLE * exp(index * _LOG_GAMMA)

    def cumulative(self, bounds_s: Iterable[float]) -> list[int]:
        """For each of the ascending ``bounds_s``, how many durations were no longer: a Prometheus histogram.
        A duration within `ACCURACY` of a bound may be counted on either side of it."""
        indices = sorted(self._counts)
        counts, seen, position = [], 0, 0
        for bound in bounds_s:
            last = round(log(bound) * _PER_LOG)
            while position < len(indices) and indices[position] <= last:
                seen += self._counts[indices[position]]
                position += 1
            counts.append(seen)
        return counts

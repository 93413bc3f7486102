"""What a batcher learns from its own batches: how long a batch takes, how many rows are worth while, and whether those
who were just answered will be back before it pays to go without them. Pure: times are given."""

from collections.abc import Callable

#: What a batch costs beside the engine: two hops and a turn of the loop.
HOP_S = 1e-4
#: Waiting that saves less than this is not worth a timer: those of an event loop tick in milliseconds.
LEAST_SAVING_S = 5e-4
#: Waiting must promise this many times the throughput.
GAIN = 1.03
#: Larger batches must give this many times the throughput, or they only delay.
WORTH = 1.02
_KNOWN = 16
_RELEARN_EVERY = 16
#: Where fewer rows than the most are enough, every so many batches another size is tried, so that it stays true.
_EXPLORE_EVERY = 64
#: More clients than this who come back at once fill any batch.
_MOST_RETURNS = 256


def sampled(number: int) -> bool:
    """Whether to learn from this one: the first ones tell all; later, a few do."""
    return number < 128 or not number & 3


class Durations:
    """Seconds of something by its size (of a batch by its rows): what was seen, and between and beyond it a straight
    line, a + b·rows with a, b >= 0. Decaying, so that what is slow for a while is not believed to be so for ever."""

    def __init__(self, most_rows: int):
        self._most = most_rows
        self._seen: dict[int, list[float]] = {}
        """rows -> mean seconds, weight, number of the last batch."""
        self._batches = 0
        self.fixed_s = self.row_s = self.most_s = 0.0
        """``most_s``: of the largest batch."""
        self.best_rows = most_rows
        """The fewest rows with (nearly) the best throughput."""

    @property
    def target_rows(self) -> int:
        """Rows of the next batch: `best_rows`, or another size that is worth a try."""
        if self.best_rows == self._most or self._batches % _EXPLORE_EVERY:
            return self.best_rows
        most = self._most
        sizes = [size for size in (most, most * 3 // 4, most // 2, most // 4) if 2 * size >= self.best_rows]
        return sizes[self._batches // _EXPLORE_EVERY % len(sizes)]

    def observe(self, rows: int, seconds: float) -> None:
        self._batches += 1
        known = self._seen.get(rows)
        if known is None:
            self._seen[rows] = [seconds, 1.0, self._batches]
        else:
            mean, weight, _ = known
            weight = min(weight + 1.0, _KNOWN)
            if weight >= 4:  # a pause of the machine is not the model's
                seconds = min(seconds, 3 * mean)
            known[:] = mean + (seconds - mean) / weight, weight, self._batches
        if self._batches < _RELEARN_EVERY or self._batches % _RELEARN_EVERY == 0:
            self._fit()

    def predict(self, rows: int) -> float:
        line = self.fixed_s + self.row_s * rows
        known = self._seen.get(rows)
        if known is None:
            return line
        weight = known[1] * known[1]  # once is chance, a few times is not
        return (known[0] * weight + line) / (weight + 1)

    def _fit(self) -> None:
        """Weighted least squares over what was seen; what was long ago counts less."""
        w = x = y = xx = xy = 0.0
        for rows, (mean, count, last) in self._seen.items():
            weight = count * 0.5 ** ((self._batches - last) / 500)
            w += weight
            x += weight * rows
            y += weight * mean
            xx += weight * rows * rows
            xy += weight * rows * mean
        spread = w * xx - x * x
        if spread <= 1e-9 * w * xx:  # one size only: half of it may be the price of any batch, until one tells
            self.fixed_s, self.row_s = y / w / 2, y / x / 2
        else:
            self.row_s = max((w * xy - x * y) / spread, 0.0)
            self.fixed_s = (y - self.row_s * x) / w
            if self.fixed_s < 0:
                self.fixed_s, self.row_s = 0.0, xy / xx
        self.best_rows = self._best() if len(self._seen) > 2 else self._most
        self.most_s = self.predict(self._most)

    def _best(self) -> int:
        sizes = {self._most, *(rows for rows in self._seen if rows <= self._most)}
        size = 1
        while size < self._most:
            sizes.add(size)
            size *= 2
        pace = {rows: rows / (self.predict(rows) + HOP_S) for rows in sizes}
        enough = max(pace.values()) / WORTH
        return min(rows for rows in sizes if pace[rows] >= enough)


class Returns:
    """Clients that ask again once they are answered: how many are still to come, and how fast they do."""

    def __init__(self) -> None:
        self._durations = Durations(_MOST_RETURNS)
        """Until so many were back, from the answers to them."""
        self.outstanding = 0
        self._expected_by = 0.0
        self._probe_start = 0.0
        self._probe_left = self._probe_count = 0
        self._deliveries = 0

    def delivered(self, count: int, now: float) -> None:
        if now > self._expected_by:
            self.outstanding = 0
        self.outstanding += count
        durations = self._durations
        self._expected_by = now + 2 * (durations.fixed_s + durations.row_s * self.outstanding)
        self._deliveries += 1
        if not self._probe_left and sampled(self._deliveries):
            self._probe_start, self._probe_left = now, self.outstanding
            self._probe_count = self.outstanding

    def arrived(self, now: float) -> None:
        if self.outstanding:
            self.outstanding -= 1
        if self._probe_left:
            self._probe_left -= 1
            if not self._probe_left and self._probe_count <= _MOST_RETURNS:
                self._durations.observe(self._probe_count, now - self._probe_start)

    def missed(self, now: float) -> None:
        """They were waited for in vain."""
        if self._probe_left:
            self._durations.observe(min(self._probe_count, _MOST_RETURNS), 2 * (now - self._probe_start))
        self.outstanding = self._probe_left = 0

    def coming(self, now: float) -> int:
        return self.outstanding if now <= self._expected_by else 0

    def until(self, count: int, now: float) -> float:
        """Seconds until ``count`` more are back."""
        if not self._probe_left:
            return self._durations.predict(min(count, _MOST_RETURNS))
        back = self._probe_count - self._probe_left
        left = self._durations.predict(min(back + count, _MOST_RETURNS)) - (now - self._probe_start)
        return max(left, self._durations.row_s * count)


def worth_waiting(
    rows: int, limit: int, returns: Returns, seconds: Callable[[int], float], now: float
) -> tuple[float, float]:
    """How long to wait for those who will be back, with ``rows`` here and a replica free: expected and at most, in
    seconds; (0, 0) is to go.

    What is compared is how long the replica is taken: by these rows and then by the others, or by waiting, some of the
    others together with these, and the rest. Never longer than that saves, so that a wait in vain at most doubles the
    price (the ski-rental rule). Those who come by chance, not because they were answered, take so long to be "back"
    that they are not waited for.
    """
    others = min(returns.coming(now), limit)
    joining = min(others, limit - rows)
    if joining <= 0:
        return 0.0, 0.0
    alone = seconds(rows)
    if alone < LEAST_SAVING_S:  # a batch saves less than the shorter of its halves
        return 0.0, 0.0
    apart = alone + seconds(others)
    best = apart / GAIN
    found = 0.0, 0.0
    for joined in {joining, joining * 3 // 4, joining // 2, joining // 4} - {0}:
        busy = seconds(rows + joined) + (seconds(others - joined) if joined < others else 0.0)
        worth = apart / GAIN - busy
        if worth < LEAST_SAVING_S:
            continue
        wait = returns.until(joined, now)
        if wait + busy < best:
            best = wait + busy
            found = wait, min(worth, 2 * wait + LEAST_SAVING_S)
    return found

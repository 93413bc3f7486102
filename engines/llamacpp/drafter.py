"""Tokens guessed ahead, which the model then checks all at once (speculative decoding; Leviathan et al., 2023).

A guess is kept only where the model's own draw agrees with it, so answers are those of plain decoding.
"""

from typing import Protocol


class Drafter(Protocol):
    def draft(self, tokens: list[int], limit: int) -> list[int]:
        """At most ``limit`` tokens that may follow ``tokens`` (which only ever grow). Empty: no guess."""

    def close(self) -> None: ...


class NGramDrafter:
    """Guesses that what followed the last ``n`` tokens before follows them again (prompt lookup; Saxena, 2023): costs
    nothing, and pays where an answer repeats its prompt, as in summaries, edits and code."""

    def __init__(self, n: int = 3):
        self._n = n
        self._ends: dict[tuple[int, ...], int] = {}
        """n-gram -> the index after its last occurrence, the very end of the tokens not counted."""
        self._seen = n

    def draft(self, tokens: list[int], limit: int) -> list[int]:
        for end in range(self._seen, len(tokens)):
            self._ends[tuple(tokens[end - self._n : end])] = end
        self._seen = max(self._seen, len(tokens))
        start = self._ends.get(tuple(tokens[-self._n :]))
        return [] if start is None else tokens[start : start + limit]

    def close(self) -> None:
        pass


class Pace:
    """How far to guess ahead, from how far the guesses held: one more after a guess that held whole, half of it after
    one that did not; after misses it waits, twice as long each time, before it tries again."""

    def __init__(self, most: int):
        self._most = most
        self._length = min(2, most)
        self._wait = self._pause = 0
        self.drafted = self.accepted = 0

    def limit(self) -> int:
        """How many tokens to guess now."""
        if self._wait:
            self._wait -= 1
            return 0
        return self._length

    def observe(self, drafted: int, accepted: int) -> None:
        """Of ``drafted`` guesses ``accepted`` held."""
        if not drafted:
            return
        self.drafted += drafted
        self.accepted += accepted
        if accepted == drafted:
            self._length, self._pause = min(self._most, self._length + 2), 0
            return
        self._length = max(1, (accepted + 1 + self._length) // 2)
        if accepted == 0:
            self._pause = min(32, max(2, 2 * self._pause))
            self._wait = self._pause

"""From the bytes of tokens to text that may be shown: complete characters, and nothing that a stop string takes."""

import codecs


class Detokenizer:
    """Bytes in, text out, however the bytes are split. Text which may turn out to be the beginning of a stop
    string is held back. Of several stop strings, the one that is complete first ends the text."""

    def __init__(self, stop: list[str]):
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = ""
        """The stop string that ended the text."""

    def feed(self, piece: bytes, may_stop: bool = True) -> str:
        """The text that ``piece`` makes ready. Sets `stopped` when a stop string is complete (never while
        ``may_stop`` is False, and text from then does not count towards one)."""
        text = self._held + self._decoder.decode(piece)
        self._held = ""
        if not may_stop or not self._stop:
            return text
        ends = [(start + len(stop), start, stop) for stop in self._stop if (start := text.find(stop)) >= 0]
        if ends:
            _, start, self.stopped = min(ends)
            return text[:start]
        safe = len(text) - max(_overlap(text, stop) for stop in self._stop)
        self._held = text[safe:]
        return text[:safe]

    def flush(self) -> str:
        """What is still held back, when no more tokens come. A character cut in half is dropped."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that ``stop`` begins with (but does not end with)."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)

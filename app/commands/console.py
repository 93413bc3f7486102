"""What the command line writes: sizes and times in words, aligned tables, progress on standard error."""

import contextlib
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

#: Seconds between two lines of progress where the output is not a terminal.
LINE_EVERY_S = 10.0
#: Seconds between two drawings of a bar.
DRAW_EVERY_S = 0.1
BAR_CELLS = 24
MARKS = {
    "ready": "●", "idle": "●", "succeeded": "●", "installed": "●", "environment": "●",
    "starting": "▲", "draining": "▲", "running": "▲", "queued": "▲", "paused": "▲", "installing": "▲",
    "failed": "■", "cancelled": "■",
}  # fmt: skip


def size(size_bytes: float | None) -> str:
    """``253.1 MB``: decimal units, as disks and downloads are sold."""
    if size_bytes is None:
        return "—"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size_bytes) < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def duration(seconds: float | None) -> str:
    """``46 s``, ``8 min``, ``1 h 05 min``."""
    if seconds is None:
        return "—"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def state(word: str) -> str:
    """A state and its mark: never colour alone, never a mark alone."""
    return f"{MARKS.get(word, '○')} {word}"


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns as wide as their widest cell, two spaces apart; `None` is a dash."""
    lines = [list(headings), *[["—" if cell is None else str(cell) for cell in row] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def one_line(text: str) -> str:
    return " ".join(text.split())


def use_utf8() -> None:
    """A console that cannot show a character shows a question mark instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def job_text(job: dict[str, Any]) -> str:
    """What a job does now: its own words, else its bytes, rate and time left."""
    if job["state"] in ("queued", "paused"):
        return job["state"]
    if job.get("message"):
        return one_line(job["message"])
    parts = []
    if job.get("total_bytes"):
        parts.append(f"{size(job.get('done_bytes') or 0)} of {size(job['total_bytes'])}")
    if job.get("rate_bytes_per_s"):
        parts.append(f"{size(job['rate_bytes_per_s'])}/s")
    if job.get("eta_s") is not None:
        parts.append(f"{duration(job['eta_s'])} left")
    return " · ".join(parts)


class Progress:
    """Progress of one piece of work: a bar that is redrawn on a terminal, else a line now and then.

    A context manager; on leaving, the bar is wiped away, so that only results stay.
    """

    def __init__(self, title: str, stream: TextIO | None = None):
        self._title = title
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._drawn_at = float("-inf")
        self._last = ""
        self._closed = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wipe the bar away, and draw no more."""
        if self._terminal and self._last and not self._closed:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
        self._closed = True

    def update(self, share: float | None, text: str = "") -> None:
        """``share`` from 0 to 1, `None` while it is not known."""
        now = time.monotonic()
        if self._closed or now - self._drawn_at < (DRAW_EVERY_S if self._terminal else LINE_EVERY_S):
            return
        line = self._bar(share, text) if self._terminal else self._words(share, text)
        if line == self._last:
            return
        self._drawn_at, self._last = now, line
        self._stream.write(f"\r{line}\x1b[K" if self._terminal else f"{line}\n")
        self._stream.flush()

    def job(self, job: dict[str, Any]) -> None:
        """Show the state of a job."""
        self.update(job.get("progress") or 0.0, job_text(job))

    def deployment(self, deployment: dict[str, Any]) -> None:
        """Show the state of a deployment beside a title that says what is waited for."""
        self.update(None, "" if deployment["state"] in ("starting", "ready") else deployment["state"])

    def _words(self, share: float | None, text: str) -> str:
        return "  ".join(part for part in (self._title, "" if share is None else f"{share:4.0%}", text) if part)

    def _bar(self, share: float | None, text: str) -> str:
        if share is None:
            line = f"{self._title}  {text}"
        else:
            full = round(min(max(share, 0.0), 1.0) * BAR_CELLS)
            line = f"{self._title}  {'━' * full}{'─' * (BAR_CELLS - full)} {share:4.0%}  {text}"
        return line[: shutil.get_terminal_size().columns - 1]

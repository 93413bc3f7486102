"""Sizes, times, tables and progress as a person reads them."""

import io

import pytest

from app.commands import console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (None, "—"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (253_113_024, "253.1 MB"),
        (5e12, "5.0 TB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_sizes(size_bytes: float | None, text: str):
    assert console.size(size_bytes) == text


@pytest.mark.parametrize(("seconds", "text"), [(None, "—"), (46, "46 s"), (480, "8 min"), (3900, "1 h 05 min")])
def test_durations(seconds: float | None, text: str):
    assert console.duration(seconds) == text


def test_columns_are_aligned_and_nothing_trails():
    assert console.table(["A", "B"], [["long", None], ["x", 1]]) == "A     B\nlong  —\nx     1"


def test_a_job_in_words():
    running = {"state": "running", "message": "", "done_bytes": 3_100_000_000, "total_bytes": 5_000_000_000,
               "rate_bytes_per_s": 41_000_000, "eta_s": 46}  # fmt: skip
    assert console.job_text(running) == "3.1 GB of 5.0 GB · 41.0 MB/s · 46 s left"
    assert console.job_text(running | {"message": "checking\nthe digest"}) == "checking the digest"
    assert console.job_text(running | {"state": "paused"}) == "paused"


def test_a_bar_is_drawn_in_place_at_most_ten_times_a_second_and_wiped_away(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    stream = Terminal()
    with console.Progress("pulling", stream) as progress:
        for _ in range(100):
            now[0] += 0.01
            progress.update(now[0] / 2, "half")
    drawn = stream.getvalue().split("\r")[1:]
    assert len(drawn) - 1 == pytest.approx(10, abs=1)
    assert "━" in drawn[-2] and drawn[-2].startswith("pulling") and drawn[-1] == "\x1b[K"
    assert "\n" not in stream.getvalue()


def test_a_bar_never_wraps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    with console.Progress("pulling", stream) as progress:
        progress.update(0.5, "x" * 100)
    assert len(stream.getvalue().split("\x1b[K")[0].lstrip("\r")) == 39


def test_without_a_terminal_it_is_a_line_every_ten_seconds(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with console.Progress("pulling", stream) as progress:
        for _ in range(25):
            progress.update(now[0] / 100, "going")
            now[0] += 1
    assert stream.getvalue().splitlines() == ["pulling    0%  going", "pulling   10%  going", "pulling   20%  going"]

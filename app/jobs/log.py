"""A job's log: a file that cannot grow for ever."""

from datetime import UTC, datetime
from pathlib import Path

LIMIT_BYTES = 1 << 20


class JobLog:
    """Appends lines with their time; beyond the limit the older half goes."""

    def __init__(self, path: Path, limit_bytes: int = LIMIT_BYTES):
        self.path, self._limit_bytes = path, limit_bytes
        self._size_bytes = path.stat().st_size if path.exists() else 0

    def write(self, line: str) -> None:
        text = f"{datetime.now(UTC):%H:%M:%S} {line.rstrip()}\n".encode(errors="replace")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(text)
        self._size_bytes += len(text)
        if self._size_bytes > self._limit_bytes:
            tail = self.path.read_bytes()[-self._limit_bytes // 2 :].partition(b"\n")[2]
            self.path.write_bytes(b"(older lines were dropped)\n" + tail)
            self._size_bytes = self.path.stat().st_size

    def read(self) -> str:
        return self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""

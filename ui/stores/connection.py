"""Whether the daemon is there, and when it was last heard."""

import time

from PySide6.QtCore import QObject, Signal

from ui.sse import Event


class Connection(QObject):
    """``online`` is `None` until the first attempt has ended."""

    changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.online: bool | None = None
        self.reason = ""
        self._heard: float | None = None

    def apply(self, event: Event) -> None:
        self._heard = time.monotonic()

    def came(self) -> None:
        self.online, self.reason, self._heard = True, "", time.monotonic()
        self.changed.emit()

    def went(self, reason: str) -> None:
        self.online, self.reason = False, reason
        self.changed.emit()

    def silent_s(self) -> float | None:
        """Seconds since the daemon was last heard; `None` if it never was."""
        return None if self._heard is None else time.monotonic() - self._heard

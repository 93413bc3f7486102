"""While the daemon is away: the last data stays, dimmed, under a line that says since when, with a retry."""

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QWidget

from ui import format
from ui.theme import tokens
from ui.widgets.basics import button, label, row
from ui.widgets.mark import MarkDot


class OfflineBar(QWidget):
    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("offline")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self._text = label("", "strong")
        self._when = label("", "muted")
        self.retry = button("Retry now")
        self.setLayout(row(MarkDot("watch"), self._text, self._when, None, self.retry, margins=(28, 8, 28, 8)))
        self.hide()

    def show_state(self, reason: str, silent_s: float | None, retry_in_s: float) -> None:
        heard = "not heard yet" if silent_s is None else f"last heard {format.duration(silent_s)} ago"
        again = f"trying again in {format.duration(retry_in_s)}" if retry_in_s >= 1 else "trying now"
        self._text.setText(reason or "The daemon does not answer.")
        self._when.setText(f"{heard} · {again}")
        self.setAccessibleName(f"{reason} {heard}")
        self.show()

    def text(self) -> str:
        return f"{self._text.text()} {self._when.text()}"


class Veil(QWidget):
    """Dims what is under it; the pointer goes through."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.hide()

    def paintEvent(self, event: QPaintEvent) -> None:
        color = QColor(tokens().window)
        color.setAlphaF(0.5)
        QPainter(self).fillRect(self.rect(), color)

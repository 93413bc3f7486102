"""A thin horizontal bar: how much of a whole."""

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from ui.theme import tokens


def draw_meter(painter: QPainter, box: QRectF, value: float, color: str = "accent", track: str = "raised") -> None:
    """``value`` from 0 to 1."""
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(Qt.PenStyle.NoPen)
    radius = min(3.0, box.height() / 2)
    painter.setBrush(tokens().color(track))
    painter.drawRoundedRect(box, radius, radius)
    filled = QRectF(box)
    filled.setWidth(box.width() * min(1.0, max(0.0, value)))
    if filled.width() > 0.5:
        painter.setBrush(tokens().color(color))
        painter.drawRoundedRect(filled, min(radius, filled.width() / 2), radius)
    painter.restore()


class Meter(QWidget):
    def __init__(self, name: str, *, width: int | None = None, height: int = 6, color: str = "accent") -> None:
        super().__init__()
        self._value = 0.0
        self._color = color
        self._height = height
        self._name = name
        self.setAccessibleName(name)
        if width is not None:
            self.setFixedWidth(width)
        self.setSizePolicy(
            QSizePolicy.Policy.Expanding if width is None else QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed
        )

    def sizeHint(self) -> QSize:
        return QSize(80, self._height + 8)

    def minimumSizeHint(self) -> QSize:
        return QSize(24, self._height + 8)

    def value(self) -> float:
        return self._value

    def set_value(self, value: float, color: str | None = None) -> None:
        """``value`` from 0 to 1."""
        if value != self._value or (color is not None and color != self._color):
            self._value, self._color = value, color or self._color
            self.setAccessibleDescription(f"{value:.0%}")
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        box = QRectF(0, (self.height() - self._height) / 2, self.width(), self._height)
        draw_meter(QPainter(self), box, self._value, self._color)

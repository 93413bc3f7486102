"""Many numbers in one strip: the dimensions of an embedding, a value for each moment of a sound."""

from collections.abc import Sequence

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from ui import format
from ui.theme import tokens


def buckets(values: Sequence[float], count: int) -> list[tuple[float, float]]:
    """Lowest and highest of at most ``count`` neighbouring groups; 0 is within each, so that it is a bar from zero."""
    size = max(1, -(-len(values) // max(1, count)))
    groups = [values[at : at + size] for at in range(0, len(values), size)]
    return [(min(0.0, *group, 0.0), max(0.0, *group, 0.0)) for group in groups]


class StripChart(QWidget):
    """A bar a number, from zero up or down; of more numbers than pixels the lowest and highest of neighbours."""

    def __init__(self, name: str, height: int = 72) -> None:
        super().__init__()
        self.values: list[float] = []
        self._height = height
        self.setAccessibleName(name)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        return QSize(240, self._height)

    def minimumSizeHint(self) -> QSize:
        return QSize(80, self._height)

    def set_values(self, values: Sequence[float]) -> None:
        """Hides itself where there are none."""
        self.values = list(values)
        self.setVisible(bool(values))
        if values:
            low, high = format.number(min(values)), format.number(max(values))
            self.setAccessibleDescription(f"{len(values)} numbers from {low} to {high}")
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        if not self.values:
            return
        painter = QPainter(self)
        t = tokens()
        bars = buckets(self.values, self.width() // 2)
        low, high = min(bar[0] for bar in bars), max(bar[1] for bar in bars)
        span = (high - low) or 1.0
        inner = QRectF(0, 4, self.width(), self.height() - 8)
        zero = inner.top() + inner.height() * high / span
        step = inner.width() / len(bars)
        gap = 1.0 if step >= 3 else 0.0
        painter.setPen(Qt.PenStyle.NoPen)
        for at, (lowest, highest) in enumerate(bars):
            top = zero - inner.height() * highest / span
            bottom = zero - inner.height() * lowest / span
            painter.setBrush(t.color("series_1"))
            painter.drawRect(QRectF(at * step, top, step - gap, max(0.5, bottom - top)))
        painter.setPen(QPen(t.color("line"), 1))
        painter.drawLine(QPointF(0, zero), QPointF(self.width(), zero))

"""Horizontal bars with their names and values: where the time goes, which classes are likely."""

from dataclasses import dataclass

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QFontMetricsF, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from ui.theme import font, tokens
from ui.widgets.meter import draw_meter


@dataclass(frozen=True)
class Bar:
    name: str
    share: float
    """0 to 1: the length."""
    value: str
    color: str = "accent"
    strong: bool = False


class Bars(QWidget):
    """One row a bar; values stand in a column at the right (``values_right``) or after each bar."""

    def __init__(self, name: str, *, row_height: int = 32, bar_height: int = 14, values_right: bool = False) -> None:
        super().__init__()
        self.bars: list[Bar] = []
        self._row, self._bar, self._values_right = row_height, bar_height, values_right
        self.setAccessibleName(name)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        return QSize(200, self._row * max(1, len(self.bars)))

    def minimumSizeHint(self) -> QSize:
        return QSize(120, self.sizeHint().height())

    def set_bars(self, bars: list[Bar]) -> None:
        if bars != self.bars:
            resized = len(bars) != len(self.bars)
            self.bars = bars
            self.setAccessibleDescription(", ".join(f"{bar.name} {bar.value}" for bar in bars))
            if resized:
                self.updateGeometry()
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        if not self.bars:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        plain, strong = font(13), font(15, 600)
        names = max(QFontMetricsF(strong if bar.strong else plain).horizontalAdvance(bar.name) for bar in self.bars)
        values = max(QFontMetricsF(plain).horizontalAdvance(bar.value) for bar in self.bars)
        left = min(names, self.width() * 0.4) + 16
        room = max(20.0, self.width() - left - values - 14)
        align = Qt.AlignmentFlag.AlignVCenter
        for index, bar in enumerate(self.bars):
            top = index * self._row
            painter.setFont(strong if bar.strong else plain)
            painter.setPen(tokens().color("text"))
            name = QFontMetricsF(painter.font()).elidedText(bar.name, Qt.TextElideMode.ElideRight, left - 12)
            painter.drawText(QRectF(0, top, left - 8, self._row), align, name)
            box = QRectF(left, top + (self._row - self._bar) / 2, room, self._bar)
            painter.setFont(plain)
            if self._values_right:
                draw_meter(painter, box, bar.share, bar.color)
                painter.setPen(tokens().color("text"))
                where = QRectF(self.width() - values - 2, top, values + 2, self._row)
                painter.drawText(where, align | Qt.AlignmentFlag.AlignRight, bar.value)
            else:
                box.setWidth(max(2.0, room * bar.share))
                draw_meter(painter, box, 1, bar.color)
                painter.setPen(tokens().color("muted"))
                where = QRectF(box.right() + 10, top, values + 4, self._row)
                painter.drawText(where, align, bar.value)

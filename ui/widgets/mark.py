"""The state mark: ● steady, ▲ watch, ■ wrong, ○ off. Shape and colour say the same thing."""

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QHBoxLayout, QSizePolicy, QWidget

from ui.theme import tokens
from ui.widgets.basics import label, set_role
from ui.words import COLORS, Mark

SIZE = 8


def draw_mark(painter: QPainter, mark: Mark, center: QPointF) -> None:
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    color = tokens().color(COLORS[mark])
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(color)
    half = SIZE / 2
    box = QRectF(center.x() - half, center.y() - half, SIZE, SIZE)
    if mark == "steady":
        painter.drawEllipse(box)
    elif mark == "wrong":
        painter.drawRoundedRect(box, 1, 1)
    elif mark == "watch":
        wide = half + 1
        top, bottom = center.y() - half, center.y() + half
        painter.drawPolygon(
            QPolygonF(
                [QPointF(center.x(), top), QPointF(center.x() + wide, bottom), QPointF(center.x() - wide, bottom)]
            )
        )
    else:
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(color, 1.5))
        painter.drawEllipse(box.adjusted(0.75, 0.75, -0.75, -0.75))
    painter.restore()


class MarkDot(QWidget):
    def __init__(self, mark: Mark = "off") -> None:
        super().__init__()
        self._mark: Mark = mark
        self.setFixedSize(QSize(12, 20))

    def set_mark(self, mark: Mark) -> None:
        if mark != self._mark:
            self._mark = mark
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        draw_mark(QPainter(self), self._mark, QPointF(6, self.height() / 2))


class StateMark(QWidget):
    """A mark and its word."""

    def __init__(self, mark: Mark = "off", word: str = "") -> None:
        super().__init__()
        self._dot = MarkDot(mark)
        self._word = label(word)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self._dot)
        layout.addWidget(self._word)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.set_state(mark, word)

    def set_state(self, mark: Mark, word: str) -> None:
        self._dot.set_mark(mark)
        self._word.setText(word)
        set_role(self._word, COLORS[mark])  # type: ignore[arg-type]
        self.setAccessibleName(word)

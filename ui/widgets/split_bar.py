"""One bar in pieces: what a whole, the time of an answer, consists of."""

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QFontMetricsF, QPainter, QPainterPath, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from ui import format
from ui.theme import font, tokens
from ui.timing import Part

BAR, LINE, GAP, SWATCH = 10, 20, 8, 14


class SplitBar(QWidget):
    """Pieces of (name, milliseconds, colour) side by side, and under them their names with the values, wrapped."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.parts: list[Part] = []
        self.setAccessibleName(name)
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    def set_parts(self, parts: list[Part]) -> None:
        """Hides itself where there is nothing to tell."""
        self.setVisible(bool(parts))
        if parts != self.parts:
            self.parts = parts
            self.setAccessibleDescription(", ".join(self._texts()))
            self.updateGeometry()
            self.update()

    def _texts(self) -> list[str]:
        return [f"{name} {format.milliseconds(value)}" for name, value, _ in self.parts]

    def _places(self, width: float) -> list[tuple[float, float, str]]:
        """x, y and text of every name."""
        metrics = QFontMetricsF(font(11))
        x, y = 0.0, BAR + GAP
        places = []
        for text in self._texts():
            needed = SWATCH + metrics.horizontalAdvance(text)
            if x and x + needed > width:
                x, y = 0.0, y + LINE
            places.append((x, float(y), text))
            x += needed + 16
        return places

    def hasHeightForWidth(self) -> bool:
        return True

    def heightForWidth(self, width: int) -> int:
        places = self._places(width)
        return int(places[-1][1] + LINE) if places else 0

    def sizeHint(self) -> QSize:
        return QSize(240, self.heightForWidth(max(240, self.width())))

    def minimumSizeHint(self) -> QSize:
        return QSize(120, BAR + GAP + LINE)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        whole = sum(value for _, value, _ in self.parts) or 1.0
        outline = QPainterPath()
        outline.addRoundedRect(QRectF(0, 0, self.width(), BAR), 3, 3)
        painter.setClipPath(outline)
        painter.fillRect(QRectF(0, 0, self.width(), BAR), tokens().color("raised"))
        x = 0.0
        for _, value, color in self.parts:
            width = self.width() * value / whole
            painter.fillRect(QRectF(x, 0, max(0.0, width - 1), BAR), tokens().color(color))
            x += width
        painter.setClipping(False)
        painter.setFont(font(11))
        for (left, top, text), (_, _, color) in zip(self._places(self.width()), self.parts, strict=True):
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(tokens().color(color))
            painter.drawRoundedRect(QRectF(left, top + LINE / 2 - 4, 8, 8), 2, 2)
            painter.setPen(tokens().color("muted"))
            where = QRectF(left + SWATCH, top, self.width() - left - SWATCH, LINE)
            painter.drawText(where, Qt.AlignmentFlag.AlignVCenter, text)

"""A line without axes, zero-based, for a cell or a card."""

from collections.abc import Sequence
from math import isnan

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QSizePolicy, QWidget

from ui.theme import tokens


def thin(values: Sequence[float], count: int) -> list[float]:
    """At most ``count`` means of neighbours; `nan` where a group has no reading."""
    if len(values) <= count:
        return list(values)
    step = -(-len(values) // count)
    start = len(values) % step
    groups = [values[:start]] if start else []
    groups += [values[at : at + step] for at in range(start, len(values), step)]
    means = []
    for group in groups:
        known = [value for value in group if not isnan(value)]
        means.append(sum(known) / len(known) if known else float("nan"))
    return means


def draw_sparkline(painter: QPainter, box: QRectF, values: Sequence[float]) -> None:
    """``values`` evenly spaced, oldest first; `nan` leaves a gap."""
    known = [value for value in values if not isnan(value)]
    if len(values) < 2 or not known:
        return
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    top = max(known) * 1.15 or 1.0
    step = box.width() / (len(values) - 1)
    run: list[QPointF] = []
    runs = [run]
    for index, value in enumerate(values):
        if isnan(value):
            run = []
            runs.append(run)
        else:
            run.append(QPointF(box.left() + index * step, box.bottom() - box.height() * value / top))
    for points in (points for points in runs if len(points) > 1):
        area = QPolygonF([*points, QPointF(points[-1].x(), box.bottom()), QPointF(points[0].x(), box.bottom())])
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(tokens().area())
        painter.drawPolygon(area)
        painter.setPen(QPen(tokens().color("series_1"), 1.3))
        painter.drawPolyline(QPolygonF(points))
    painter.restore()


class Sparkline(QWidget):
    def __init__(self) -> None:
        super().__init__()
        self._values: list[float] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        return QSize(110, 30)

    def minimumSizeHint(self) -> QSize:
        return QSize(20, 30)

    def set_values(self, values: Sequence[float]) -> None:
        self._values = thin(values, 90)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        draw_sparkline(QPainter(self), QRectF(self.rect()).adjusted(1, 2, -1, -1), self._values)

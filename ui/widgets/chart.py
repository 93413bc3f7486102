"""A live chart: lines over time, zero-based, gaps as gaps; a crosshair shared by all charts of a page."""

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QObject, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFontMetricsF, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QSizePolicy, QWidget

from ui.format import clock
from ui.stores.marks import Moment
from ui.theme import font, tokens
from ui.widgets import chart_math as cm


@dataclass
class Line:
    """``times`` in seconds since the epoch; ``color`` a token; ``area`` fills under it."""

    name: str
    color: str
    times: Sequence[float]
    values: Sequence[float]
    area: bool = False

    def latest(self, now: float) -> float | None:
        return cm.value_at(self.times, self.values, now, within_s=3.5)


#: A narrower chart shows where an event was and leaves its words to the wide one on the same page.
WORDS_FROM_PX = 600


class Crosshair(QObject):
    """The moment that the pointer is at, on whichever chart of a page; `None` when on none."""

    moved = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.time: float | None = None

    def move(self, time: float | None) -> None:
        if time != self.time:
            self.time = time
            self.moved.emit()


class Chart(QWidget):
    """Paints what `set_data` gave it. ``unit`` is that of the y axis (``ms``, ``%``, ``B``, ``/s`` …); ``fixed_max``
    pins the top of the axis (100 for percentages, the size of the memory)."""

    def __init__(self, name: str, unit: str, crosshair: Crosshair, *, fixed_max: float | None = None) -> None:
        super().__init__()
        self.unit = unit
        self.fixed_max = fixed_max
        self.crosshair = crosshair
        self.lines: list[Line] = []
        self.marks: list[Moment] = []
        self._start, self._end = 0.0, 1.0
        self.setAccessibleName(name)
        self.setMouseTracking(True)
        self.setMinimumHeight(110)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        crosshair.moved.connect(self.update)

    def sizeHint(self) -> QSize:
        return QSize(300, 132)

    def set_data(self, lines: list[Line], start: float, end: float, marks: list[Moment] | None = None) -> None:
        """What to show between two moments (seconds since the epoch)."""
        self.lines, self._start, self._end = lines, start, end
        self.marks = [mark for mark in marks or [] if start <= mark.time <= end]
        latest = ", ".join(f"{line.name} {cm.value_text(line.latest(end), self.unit)}" for line in lines)
        self.setAccessibleDescription(latest)
        self.update()

    # --- geometry --------------------------------------------------------------------------------------

    def runs(self) -> list[list[list[tuple[float, float]]]]:
        """For each line its unbroken runs of points."""
        bucket = cm.bucket_s(self._end - self._start, self.width())
        return [cm.segments(line.times, line.values, self._start, self._end, bucket) for line in self.lines]

    def ticks(self, runs: list[list[list[tuple[float, float]]]]) -> list[float]:
        top = max((value for line in runs for run in line for _, value in run), default=0.0)
        if self.fixed_max is not None:
            top = max(self.fixed_max, top)
        rows = 5 if self.height() >= 200 else 4
        if self.unit == "%" and self.fixed_max == 100 and top <= 100:
            return [0.0, 50.0, 100.0]
        return cm.byte_ticks(top, rows) if self.unit == "B" else cm.nice_ticks(top, rows)

    def scale(self, ticks: list[float]) -> cm.Scale:
        metrics = QFontMetricsF(font(11))
        gutter = max(metrics.horizontalAdvance(cm.tick_text(tick, self.unit)) for tick in ticks) + 8
        return cm.Scale(
            left=gutter, top=7, width=max(10.0, self.width() - gutter - 2), height=max(10.0, self.height() - 7 - 22),
            start=self._start, end=self._end, maximum=ticks[-1],
        )  # fmt: skip

    # --- painting --------------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setFont(font(11))
        runs = self.runs()
        ticks = self.ticks(runs)
        scale = self.scale(ticks)
        self._paint_grid(painter, scale, ticks)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setClipRect(QRectF(scale.left, 0, scale.width + 2, scale.top + scale.height + 1))
        for line, line_runs in zip(self.lines, runs, strict=True):
            self._paint_line(painter, scale, line, line_runs)
        painter.setClipping(False)
        self._paint_marks(painter, scale)
        self._paint_crosshair(painter, scale)
        painter.end()

    def _paint_grid(self, painter: QPainter, scale: cm.Scale, ticks: list[float]) -> None:
        t = tokens()
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        for tick in ticks:
            y = round(scale.y(tick)) + 0.5
            painter.setPen(QPen(t.color("line"), 1))
            painter.drawLine(QPointF(scale.left, y), QPointF(scale.left + scale.width, y))
            painter.setPen(t.color("muted"))
            painter.drawText(QRectF(0, y - 8, scale.left - 8, 16), right, cm.tick_text(tick, self.unit))
        span = scale.end - scale.start
        metrics = QFontMetricsF(painter.font())
        with_seconds = span <= 120
        width = metrics.horizontalAdvance("00:00:00" if with_seconds else "00:00")
        top = scale.top + scale.height + 5
        for moment in cm.time_ticks(scale.start, scale.end, max(2, min(6, int(scale.width // (width + 40))))):
            x = scale.x(moment)
            x = min(max(x, scale.left + width / 2), scale.left + scale.width - width / 2)
            painter.drawText(
                QRectF(x - width, top, 2 * width, 16),
                Qt.AlignmentFlag.AlignCenter,
                clock(moment, with_seconds=with_seconds),
            )

    def _paint_line(
        self, painter: QPainter, scale: cm.Scale, line: Line, runs: list[list[tuple[float, float]]]
    ) -> None:
        base = scale.y(0)
        for run in runs:
            points = [QPointF(scale.x(time), scale.y(value)) for time, value in run]
            if line.area:
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(tokens().area())
                painter.drawPolygon(QPolygonF([*points, QPointF(points[-1].x(), base), QPointF(points[0].x(), base)]))
            pen = QPen(tokens().color(line.color), 1.6)
            pen.setJoinStyle(Qt.PenJoinStyle.RoundJoin)
            painter.setPen(pen)
            if len(points) == 1:
                painter.setBrush(tokens().color(line.color))
                painter.drawEllipse(points[0], 1, 1)
            else:
                painter.drawPolyline(QPolygonF(points))

    def _paint_marks(self, painter: QPainter, scale: cm.Scale) -> None:
        metrics = QFontMetricsF(painter.font())
        pen = QPen(tokens().color("muted"), 1)
        pen.setDashPattern([3, 3])
        free_from = -1.0
        for mark in self.marks:
            x = round(scale.x(mark.time)) + 0.5
            painter.setPen(pen)
            painter.drawLine(QPointF(x, scale.top), QPointF(x, scale.top + scale.height))
            if self.width() < WORDS_FROM_PX:
                continue
            width = metrics.horizontalAdvance(mark.words)
            left = x + 6 if x + 6 + width < scale.left + scale.width else x - 6 - width
            if left < free_from:
                continue
            free_from = left + width + 6
            box = QRectF(left - 2, scale.top + 2, width + 4, 15)
            backdrop = QColor(tokens().panel)
            backdrop.setAlphaF(0.75)
            painter.fillRect(box, backdrop)
            painter.setPen(tokens().color("muted"))
            painter.drawText(box, Qt.AlignmentFlag.AlignCenter, mark.words)

    def _paint_crosshair(self, painter: QPainter, scale: cm.Scale) -> None:
        moment = self.crosshair.time
        if moment is None or not scale.start <= moment <= scale.end:
            return
        x = round(scale.x(moment)) + 0.5
        painter.setPen(QPen(tokens().color("muted"), 1))
        painter.drawLine(QPointF(x, scale.top), QPointF(x, scale.top + scale.height))
        painter.setPen(Qt.PenStyle.NoPen)
        within = max(3.0, cm.bucket_s(self._end - self._start, self.width()))
        for line in self.lines:
            value = cm.value_at(line.times, line.values, moment, within)
            if value is not None:
                painter.setBrush(tokens().color(line.color))
                painter.drawEllipse(QPointF(x, scale.y(value)), 3, 3)

    # --- the pointer -----------------------------------------------------------------------------------

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        scale = self.scale(self.ticks(self.runs()))
        time = scale.time(event.position().x())
        self.crosshair.move(time if scale.start <= time <= scale.end else None)

    def leaveEvent(self, event: QEvent) -> None:
        self.crosshair.move(None)

"""A pipeline from what comes in, at the top, to what goes out: its steps as boxes, its values on the lines."""

from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QFontMetricsF, QKeyEvent, QMouseEvent, QPainter, QPainterPath, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.schema.manage import Pipeline
from ui import graph
from ui.theme import font, tokens
from ui.widgets.mark import draw_mark
from ui.words import Mark

HEIGHT, PILL, GAP, BETWEEN, MOST_WIDTH, LANE = 46, 26, 34, 12, 210, 12


@dataclass(frozen=True)
class RouteNow:
    """What is known of a step's route."""

    mark: Mark
    word: str
    latency: str = ""


class PipelineGraph(QWidget):
    """``picked`` with a route when its box is clicked, or Enter pressed on it; arrow keys go from box to box."""

    picked = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._pipeline: Pipeline | None = None
        self._nodes: list[graph.Node] = []
        self._edges: list[graph.Edge] = []
        self._now: dict[str, RouteNow] = {}
        self.current = ""
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName("Pipeline")
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def show_pipeline(self, pipeline: Pipeline, now: dict[str, RouteNow]) -> None:
        """``now`` by route."""
        if pipeline != self._pipeline:
            self._pipeline = pipeline
            self._nodes, self._edges = graph.nodes(pipeline), graph.edges(pipeline)
            steps = self._steps()
            self.current = self.current if self.current in steps else next(iter(steps), "")
            self.updateGeometry()
        self._now = now
        states = ", ".join(f"{route} {found.word.lower()}" for route, found in now.items())
        self.setAccessibleDescription(f"{graph.words(pipeline)}. {states}")
        self.update()

    def _steps(self) -> dict[str, graph.Node]:
        return {node.name: node for node in self._nodes if node.route}

    def sizeHint(self) -> QSize:
        lines = max((node.line for node in self._nodes), default=1)
        return QSize(260, 2 * PILL + (lines - 1) * HEIGHT + lines * GAP + 2)

    def minimumSizeHint(self) -> QSize:
        return QSize(160, self.sizeHint().height())

    # --- places ----------------------------------------------------------------------------------------

    def box(self, node: graph.Node) -> QRectF:
        """Where a node is."""
        pill = not node.route
        height = PILL if pill else HEIGHT
        top = 1.0 if not node.line else 1 + PILL + GAP + (node.line - 1) * (HEIGHT + GAP)
        across = self.width() - 2 - 2 * LANE * len(self._passing())
        room = (across - BETWEEN * (node.places - 1)) / node.places
        width = min(room, self._pill_width(node) if pill else MOST_WIDTH)
        middle = self.width() / 2 + (node.place - (node.places - 1) / 2) * (min(room, MOST_WIDTH) + BETWEEN)
        return QRectF(middle - width / 2, top, width, height)

    def _passing(self) -> list[graph.Edge]:
        """Those that pass a line: they go round the boxes, each in a lane of its own."""
        at = {node.name: node.line for node in self._nodes}
        return [edge for edge in self._edges if at[edge.end] - at[edge.start] > 1]

    def path(self, edge: graph.Edge) -> QPainterPath:
        """The line of an edge, from the bottom of one box to the top of another."""
        boxes = {node.name: self.box(node) for node in self._nodes}
        start, end = boxes[edge.start], boxes[edge.end]
        begin, finish = QPointF(start.center().x(), start.bottom()), QPointF(end.center().x(), end.top())
        path = QPainterPath(begin)
        passing = self._passing()
        if edge not in passing:
            bend = min(GAP, (finish.y() - begin.y()) / 2)
            path.cubicTo(begin + QPointF(0, bend), finish - QPointF(0, bend), finish)
            return path
        offset = LANE * (passing.index(edge) + 0.5)
        lane = offset if begin.x() <= self.width() / 2 else self.width() - offset
        down, up = QPointF(lane, begin.y() + GAP), QPointF(lane, finish.y() - GAP)
        path.cubicTo(begin + QPointF(0, GAP / 2), QPointF(lane, begin.y() + GAP / 4), down)
        path.lineTo(up)
        path.cubicTo(QPointF(lane, finish.y() - GAP / 4), finish - QPointF(0, GAP / 2), finish)
        return path

    def _pill_text(self, node: graph.Node) -> str:
        if self._pipeline is None:
            return ""
        return ", ".join(self._pipeline.outputs if node.name == graph.OUTPUT else graph.inputs(self._pipeline))

    def _pill_width(self, node: graph.Node) -> float:
        return QFontMetricsF(font(11)).horizontalAdvance(self._pill_text(node)) + 24

    # --- painting --------------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for edge in self._edges:
            self._paint_edge(painter, edge)
        for edge in self._edges:
            self._paint_name(painter, edge)
        for node in self._nodes:
            if node.route:
                self._paint_step(painter, node, self.box(node))
            else:
                self._paint_pill(painter, node, self.box(node))

    def _paint_edge(self, painter: QPainter, edge: graph.Edge) -> None:
        t = tokens()
        path = self.path(edge)
        finish = path.currentPosition()
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(t.color("faint"), 1.4))
        painter.drawPath(path)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(t.color("faint"))
        painter.drawPolygon([finish, finish + QPointF(-4, -6), finish + QPointF(4, -6)])

    def _paint_name(self, painter: QPainter, edge: graph.Edge) -> None:
        """What flows, where there is room for it and its end does not say the same."""
        text = ", ".join(edge.values)
        ends = [node for node in self._nodes if not node.route and node.name in {edge.start, edge.end}]
        if edge in self._passing() or any(text == self._pill_text(node) for node in ends):
            return
        self._paint_value(painter, text, self.path(edge).pointAtPercent(0.5))

    def _paint_value(self, painter: QPainter, text: str, middle: QPointF) -> None:
        t = tokens()
        painter.setFont(font(11))
        metrics = QFontMetricsF(painter.font())
        text = metrics.elidedText(text, Qt.TextElideMode.ElideRight, 120)
        width = metrics.horizontalAdvance(text) + 8
        left = min(max(0.0, middle.x() - width / 2), self.width() - width)
        where = QRectF(left, middle.y() - 8, width, 16)
        painter.fillRect(where, t.color("panel"))
        painter.setPen(t.color("muted"))
        painter.drawText(where, Qt.AlignmentFlag.AlignCenter, text)

    def _paint_step(self, painter: QPainter, node: graph.Node, box: QRectF) -> None:
        t = tokens()
        focused = self.hasFocus() and node.name == self.current
        painter.setPen(QPen(t.color("accent" if focused else "line"), 1.6 if focused else 1))
        painter.setBrush(t.color("raised"))
        painter.drawRoundedRect(box, 6, 6)
        now = self._now.get(node.route, RouteNow("wrong", "missing"))
        draw_mark(painter, now.mark, QPointF(box.left() + 16, box.top() + 15))
        plain = font(11)
        latency = QFontMetricsF(plain).horizontalAdvance(now.latency)
        painter.setFont(plain)
        painter.setPen(t.color("muted"))
        if latency:
            where = QRectF(box.right() - latency - 12, box.top() + 6, latency + 2, 18)
            painter.drawText(where, Qt.AlignmentFlag.AlignVCenter, now.latency)
        self._paint_line(painter, node.route, QRectF(box.left() + 28, box.top() + 23, box.width() - 38, 18))
        painter.setFont(font(13, 500))
        painter.setPen(t.color("text"))
        self._paint_line(painter, node.name, QRectF(box.left() + 28, box.top() + 5, box.width() - latency - 50, 20))

    def _paint_line(self, painter: QPainter, text: str, where: QRectF) -> None:
        elided = QFontMetricsF(painter.font()).elidedText(text, Qt.TextElideMode.ElideRight, where.width())
        painter.drawText(where, Qt.AlignmentFlag.AlignVCenter, elided)

    def _paint_pill(self, painter: QPainter, node: graph.Node, box: QRectF) -> None:
        t = tokens()
        painter.setPen(QPen(t.color("line"), 1))
        painter.setBrush(t.color("panel"))
        painter.drawRoundedRect(box, PILL / 2, PILL / 2)
        painter.setFont(font(11))
        painter.setPen(t.color("text"))
        inner = box.adjusted(10, 0, -10, 0)
        text = QFontMetricsF(painter.font()).elidedText(
            self._pill_text(node), Qt.TextElideMode.ElideRight, inner.width()
        )
        painter.drawText(inner, Qt.AlignmentFlag.AlignCenter, text)

    # --- choosing --------------------------------------------------------------------------------------

    def _at(self, point: QPointF) -> graph.Node | None:
        return next((node for node in self._steps().values() if self.box(node).contains(point)), None)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        if node := self._at(event.position()):
            self.current = node.name
            self.picked.emit(node.route)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        over = self._at(event.position())
        self.setCursor(Qt.CursorShape.PointingHandCursor if over else Qt.CursorShape.ArrowCursor)
        self.setToolTip(f"Show {over.route}" if over else "")

    def keyPressEvent(self, event: QKeyEvent) -> None:
        names = list(self._steps())
        steps = {Qt.Key.Key_Down: 1, Qt.Key.Key_Right: 1, Qt.Key.Key_Up: -1, Qt.Key.Key_Left: -1}
        key = Qt.Key(event.key())
        if key in steps and names:
            at = names.index(self.current) + steps[key]
            self.current = names[max(0, min(len(names) - 1, at))]
            self.update()
        elif key in {Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space} and self.current in self._steps():
            self.picked.emit(self._steps()[self.current].route)
        else:
            super().keyPressEvent(event)

    def focusInEvent(self, event: Any) -> None:
        super().focusInEvent(event)
        self.update()

    def focusOutEvent(self, event: Any) -> None:
        super().focusOutEvent(event)
        self.update()

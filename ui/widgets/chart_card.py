"""A chart in its card: the title, and a legend that carries the current value, or the one under the crosshair."""

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QFontMetricsF, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from ui.format import clock
from ui.stores.marks import Moment
from ui.theme import font, tokens
from ui.widgets import chart_math as cm
from ui.widgets.basics import label, set_text
from ui.widgets.card import Card
from ui.widgets.chart import Chart, Crosshair, Line


class Legend(QWidget):
    """Entries of (name, colour token, value text), right-aligned; a lone line shows its value only."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[str, str, str]] = []
        self._prefix = ""
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        return QSize(120, 20)

    def minimumSizeHint(self) -> QSize:
        return QSize(30, 20)

    def set_entries(self, entries: list[tuple[str, str, str]], prefix: str = "") -> None:
        if (entries, prefix) != (self.entries, self._prefix):
            self.entries, self._prefix = entries, prefix
            self.update()

    def text(self) -> str:
        return " · ".join(f"{name} {value}".strip() for name, _, value in self.entries)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(font(11))
        metrics = QFontMetricsF(painter.font())
        t = tokens()
        x = float(self.width())
        middle = self.height() / 2
        alone = len(self.entries) == 1
        texts = [value if alone else f"{name} {value}" for name, _, value in self.entries]
        widths = [metrics.horizontalAdvance(text) for text in texts]
        swatch = 0 if alone else 20
        needed = sum(widths) + len(texts) * (swatch + 14) - 14
        if needed > self.width():  # too narrow for the values: keep the names
            texts = [name for name, _, _ in self.entries]
            widths = [metrics.horizontalAdvance(text) for text in texts]
        for (_, color, _), text, width in reversed(list(zip(self.entries, texts, widths, strict=True))):
            x -= width
            painter.setPen(t.color("text" if alone else "muted"))
            painter.drawText(QRectF(x, 0, width + 2, self.height()), Qt.AlignmentFlag.AlignVCenter, text)
            if not alone:
                x -= swatch
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(t.color(color))
                painter.drawRoundedRect(QRectF(x, middle - 1.5, 14, 3), 1.5, 1.5)
            x -= 14
        if self._prefix:
            width = metrics.horizontalAdvance(self._prefix)
            if x - width > 0:
                painter.setPen(t.color("muted"))
                painter.drawText(QPointF(x - width, middle + 4), self._prefix)


class ChartCard(Card):
    """`show_lines` once a second; ``quiet`` replaces the chart by a sentence where there is nothing to draw."""

    def __init__(
        self, title: str, unit: str, crosshair: Crosshair, *, fixed_max: float | None = None, tall: bool = False
    ) -> None:
        self.legend = Legend()
        super().__init__(title, self.legend)
        self.chart = Chart(title, unit, crosshair, fixed_max=fixed_max)
        self.chart.setMinimumHeight(210 if tall else 126)
        self.add(self.chart, 1)
        self._note = label("", "caption", wrap=True)
        self._note.hide()
        self.add(self._note)
        self.body.setSpacing(6)
        self.suffix = ""
        """Follows the value in the legend: ``of 24 GB``."""
        self._end = 0.0
        crosshair.moved.connect(self._refresh_legend)

    def show_lines(self, lines: list[Line], start: float, end: float, marks: list[Moment] | None = None) -> None:
        self._end = end
        self.chart.set_data(lines, start, end, marks)
        self._refresh_legend()

    def say(self, note: str) -> None:
        """A sentence under the chart, about now."""
        set_text(self._note, note)

    def note(self) -> str:
        return self._note.text() if not self._note.isHidden() else ""

    def _refresh_legend(self) -> None:
        moment = self.chart.crosshair.time
        entries = []
        for line in self.chart.lines:
            value = line.latest(self._end) if moment is None else cm.value_at(line.times, line.values, moment)
            text = cm.value_text(value, self.chart.unit)
            entries.append((line.name, line.color, f"{text} {self.suffix}".strip()))
        self.legend.set_entries(entries, clock(moment, with_seconds=True) if moment is not None else "")

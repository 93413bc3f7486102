"""The rail: the pages, counts where a count asks for action, and the station at its foot."""

from functools import partial

from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QFocusEvent, QFontMetricsF, QKeyEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QAbstractButton, QLabel, QSizePolicy, QVBoxLayout, QWidget

from ui.theme import font, tokens
from ui.widgets.basics import label, rule
from ui.widgets.icon import pixmap
from ui.widgets.mark import draw_mark
from ui.words import Mark

WIDE, NARROW = 200, 56
SECTIONS: list[tuple[str, list[tuple[str, str, str]]]] = [
    (
        "",
        [
            ("overview", "Overview", "layout-dashboard"),
            ("models", "Models", "box"),
            ("deployments", "Deployments", "rocket"),
        ],
    ),
    ("Watch", [("monitor", "Monitor", "activity")]),
    ("Try", [("playground", "Playground", "flask-conical")]),
    (
        "Station",
        [
            ("jobs", "Jobs", "list-checks"),
            ("hardware", "Hardware", "cpu"),
            ("settings", "Settings", "sliders-horizontal"),
        ],
    ),
]


class RailItem(QAbstractButton):
    """One page. ``badge`` is a count and whether it is urgent."""

    def __init__(self, key: str, text: str, icon_name: str) -> None:
        super().__init__()
        self.key = key
        self._icon = icon_name
        self.folded = False
        self.badge = 0
        self.urgent = False
        self._by_key = False
        self.setText(text)
        self.setAccessibleName(text)
        self.setCheckable(True)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAttribute(Qt.WidgetAttribute.WA_Hover)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        return QSize(40, 34)

    def set_badge(self, count: int, urgent: bool = False) -> None:
        if (count, urgent) != (self.badge, self.urgent):
            self.badge, self.urgent = count, urgent
            self.setAccessibleDescription(f"{count}" if count else "")
            self.update()

    def focusInEvent(self, event: QFocusEvent) -> None:
        self._by_key = event.reason() in {Qt.FocusReason.TabFocusReason, Qt.FocusReason.BacktabFocusReason}
        super().focusInEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in {Qt.Key.Key_Return, Qt.Key.Key_Enter}:
            self.click()
        else:
            super().keyPressEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        t = tokens()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        box = QRectF(self.rect()).adjusted(0, 0, 0, 0)
        chosen = self.isChecked()
        if chosen or self.underMouse():
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(t.color("selection" if chosen else "raised"))
            painter.drawRoundedRect(box, 6, 6)
        if self.hasFocus() and self._by_key:
            painter.setPen(QPen(t.color("accent"), 1))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(box.adjusted(0.5, 0.5, -0.5, -0.5), 6, 6)
        color = t.text if chosen else t.muted
        left = (box.width() - 16) / 2 if self.folded else 10
        painter.drawPixmap(
            round(left), round((box.height() - 16) / 2), pixmap(self._icon, color, 16, self.devicePixelRatioF())
        )
        if not self.folded:
            painter.setFont(font(13, 500 if chosen else 400))
            painter.setPen(t.color("text" if chosen else "muted"))
            painter.drawText(box.adjusted(36, 0, -8, 0), Qt.AlignmentFlag.AlignVCenter, self.text())
        if self.badge:
            self._paint_badge(painter, box)

    def _paint_badge(self, painter: QPainter, box: QRectF) -> None:
        t = tokens()
        painter.setPen(Qt.PenStyle.NoPen)
        if self.folded:
            painter.setBrush(t.color("wrong" if self.urgent else "accent"))
            painter.drawEllipse(QRectF(box.width() - 13, 6, 7, 7))
            return
        painter.setFont(font(11, 500 if self.urgent else 400))
        width = max(21.0, QFontMetricsF(painter.font()).horizontalAdvance(str(self.badge)) + 13)
        chip = QRectF(box.right() - 10 - width, box.center().y() - 9.5, width, 19)
        painter.setBrush(t.color("wrong" if self.urgent else "raised"))
        painter.drawRoundedRect(chip, 9.5, 9.5)
        painter.setPen(t.color("panel" if self.urgent else "muted"))
        painter.drawText(chip, Qt.AlignmentFlag.AlignCenter, str(self.badge))


class Brand(QWidget):
    """The ship's wheel and the name."""

    def __init__(self) -> None:
        super().__init__()
        self.folded = False
        self.setFixedHeight(56)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        left = (self.width() - 20) // 2 if self.folded else 8
        painter.drawPixmap(left, 18, pixmap("ship-wheel", tokens().accent, 20, self.devicePixelRatioF()))
        if not self.folded:
            painter.setFont(font(15, 600))
            painter.setPen(tokens().color("text"))
            painter.drawText(QRectF(40, 0, self.width() - 40, 56), Qt.AlignmentFlag.AlignVCenter, "Pilothouse")


class Foot(QWidget):
    """The station: is the daemon there, on which machine, where, since when."""

    def __init__(self) -> None:
        super().__init__()
        self.folded = False
        self._mark: Mark = "off"
        self._first = self._second = ""
        self.setFixedHeight(58)

    def set_station(self, mark: Mark, first: str, second: str) -> None:
        if (mark, first, second) != (self._mark, self._first, self._second):
            self._mark, self._first, self._second = mark, first, second
            self.setAccessibleName(f"{first}, {second}")
            self.setToolTip(f"{first}\n{second}")
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setFont(font(12))
        metrics = QFontMetricsF(painter.font())
        draw_mark(painter, self._mark, QPointF(self.width() / 2 if self.folded else 12, 20))
        if self.folded:
            return
        room = self.width() - 28
        painter.setPen(tokens().color("muted"))
        elide = Qt.TextElideMode.ElideRight
        painter.drawText(
            QRectF(24, 10, room, 20), Qt.AlignmentFlag.AlignVCenter, metrics.elidedText(self._first, elide, room)
        )
        painter.setFont(font(11))
        small = QFontMetricsF(painter.font())
        second = self._second
        if small.horizontalAdvance(second) > room:  # the address without its age, rather than half of both
            second = second.partition(" · ")[0]
        second = small.elidedText(second, elide, room)
        painter.drawText(QRectF(24, 32, room, 20), Qt.AlignmentFlag.AlignVCenter, second)


class Rail(QWidget):
    """``chosen(page)``; `set_folded` leaves only the icons, with their names as tool tips."""

    chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("rail")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.setAccessibleName("Pages")
        self.items: dict[str, RailItem] = {}
        self._sections: list[QLabel] = []
        self._brand, self.foot = Brand(), Foot()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 0, 11, 8)
        layout.setSpacing(2)
        layout.addWidget(self._brand)
        for title, pages in SECTIONS:
            if title:
                layout.addSpacing(12)
                heading = label(title, "caption")
                heading.setContentsMargins(10, 4, 0, 6)
                self._sections.append(heading)
                layout.addWidget(heading)
            for key, text, icon_name in pages:
                item = RailItem(key, text, icon_name)
                item.clicked.connect(partial(self._choose, key))
                self.items[key] = item
                layout.addWidget(item)
        layout.addStretch(1)
        layout.addWidget(rule())
        layout.addWidget(self.foot)
        self.set_folded(False)

    def set_current(self, key: str) -> None:
        # Not a QButtonGroup: that takes the unchosen ones out of the order of the Tab key.
        for name, item in self.items.items():
            item.setChecked(name == key)

    def _choose(self, key: str, _checked: bool = False) -> None:
        self.set_current(key)
        self.chosen.emit(key)

    def set_folded(self, folded: bool) -> None:
        self.setFixedWidth(NARROW if folded else WIDE)
        parts: list[Brand | Foot | RailItem] = [self._brand, self.foot, *self.items.values()]
        for part in parts:
            part.folded = folded
            part.update()
        for item in self.items.values():
            item.setToolTip(item.text() if folded else "")
        for heading in self._sections:
            heading.setVisible(not folded)

"""The bar: search and commands on the left, the load of the machine on the right."""

from PySide6.QtCore import QRectF, Qt, Signal
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QHBoxLayout, QPushButton, QSizePolicy, QWidget

from ui.theme import font, tokens
from ui.widgets.gpu_strip import GpuStrip


class SearchButton(QPushButton):
    def __init__(self) -> None:
        super().__init__("Search or run a command")
        self.setObjectName("search")
        self.setAccessibleName("Search or run a command, Ctrl+K")
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setMinimumWidth(200)
        self.setMaximumWidth(320)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        painter = QPainter(self)
        painter.setFont(font(11))
        painter.setPen(tokens().color("muted"))
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        painter.drawText(QRectF(self.rect()).adjusted(0, 0, -10, 0), right, "Ctrl K")


class TopBar(QWidget):
    searched = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("bar")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.setFixedHeight(56)
        self.search = SearchButton()
        self.search.clicked.connect(self.searched)
        self.strip = GpuStrip()
        layout = QHBoxLayout(self)
        layout.setContentsMargins(28, 0, 28, 1)
        layout.setSpacing(20)
        layout.addWidget(self.search, 3)
        layout.addWidget(self.strip, 5)

"""Master and detail side by side, or the detail under the list where the window is narrow."""

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QWidget


class Split(QWidget):
    """Two parts sharing the width ``shares``; below ``breakpoint_px`` of its own width the second goes under."""

    def __init__(self, first: QWidget, second: QWidget, shares: tuple[int, int] = (8, 5), breakpoint_px: int = 760) -> None:
        super().__init__()
        self._shares, self._breakpoint = shares, breakpoint_px
        self._layout = QBoxLayout(QBoxLayout.Direction.LeftToRight, self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(16)
        top = Qt.AlignmentFlag.AlignTop
        self._layout.addWidget(first, shares[0], top)
        self._layout.addWidget(second, shares[1], top)

    def stacked(self) -> bool:
        return self._layout.direction() == QBoxLayout.Direction.TopToBottom

    def resizeEvent(self, event: QResizeEvent) -> None:
        stacked = event.size().width() < self._breakpoint
        if stacked != self.stacked():
            directions = QBoxLayout.Direction
            self._layout.setDirection(directions.TopToBottom if stacked else directions.LeftToRight)
            for index, share in enumerate(self._shares):
                self._layout.setStretch(index, 0 if stacked else share)
        super().resizeEvent(event)

"""Master and detail side by side, or the detail under the list where the window is narrow."""

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QWidget


class Split(QWidget):
    """Two parts sharing the width by ``shares``; where it is less than ``breakpoint_px`` the second goes under the
    first. ``equal`` makes both as high as the higher one, ``tall`` the first as high as there is room."""

    def __init__(
        self,
        first: QWidget,
        second: QWidget,
        shares: tuple[int, int] = (8, 5),
        breakpoint_px: int = 760,
        *,
        equal: bool = False,
        tall: bool = False,
    ) -> None:
        super().__init__()
        self._shares, self._breakpoint = shares, breakpoint_px
        self._layout = QBoxLayout(QBoxLayout.Direction.LeftToRight, self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(16)
        for part, share in zip((first, second), shares, strict=True):
            self._layout.addWidget(part, share)
            if not (equal or (tall and part is first)):
                self._layout.setAlignment(part, Qt.AlignmentFlag.AlignTop)

    def stacked(self) -> bool:
        return self._layout.direction() == QBoxLayout.Direction.TopToBottom

    def minimumSizeHint(self) -> QSize:
        """As narrow as when stacked: else the parts side by side would keep the page from ever getting there."""
        items = [item for at in range(self._layout.count()) if (item := self._layout.itemAt(at)) is not None]
        return QSize(max(item.minimumSize().width() for item in items), super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        stacked = event.size().width() < self._breakpoint
        if stacked != self.stacked():
            directions = QBoxLayout.Direction
            self._layout.setDirection(directions.TopToBottom if stacked else directions.LeftToRight)
            for index, share in enumerate(self._shares):
                self._layout.setStretch(index, 0 if stacked else share)
        super().resizeEvent(event)

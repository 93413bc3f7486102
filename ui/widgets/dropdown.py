"""A list that folds out, with its chevron in the colours of the theme."""

from PySide6.QtCore import QPointF
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QComboBox

from ui.theme import tokens
from ui.widgets.icon import pixmap


class Dropdown(QComboBox):
    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        chevron = pixmap("chevron-down", tokens().muted, 14, self.devicePixelRatioF())
        QPainter(self).drawPixmap(QPointF(self.width() - 24, (self.height() - 14) / 2), chevron)

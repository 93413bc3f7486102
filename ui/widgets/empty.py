"""An empty page: what it is for, and the one action that fills it."""

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QVBoxLayout, QWidget

from ui.theme import tokens
from ui.widgets.basics import button, label
from ui.widgets.icon import pixmap


class Empty(QWidget):
    def __init__(
        self, icon_name: str, title: str, text: str, action: str = "", act: Callable[[], object] | None = None
    ) -> None:
        super().__init__()
        self._icon_name = icon_name
        self._icon = QLabel()
        self._title = label(title, "heading")
        self._text = label(text, "muted", wrap=True)
        self._text.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self._text.setFixedWidth(380)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(24, 40, 24, 40)
        layout.setSpacing(8)
        center = Qt.AlignmentFlag.AlignHCenter
        layout.addWidget(self._icon, 0, center)
        layout.addWidget(self._title, 0, center)
        layout.addWidget(self._text, 0, center)
        if action:
            layout.addSpacing(8)
            layout.addWidget(button(action, act), 0, center)
        self.restyle()

    def restyle(self) -> None:
        self._icon.setPixmap(pixmap(self._icon_name, tokens().faint, 28, self.devicePixelRatioF()))

    def set_text(self, title: str, text: str) -> None:
        self._title.setText(title)
        self._text.setText(text)

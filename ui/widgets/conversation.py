"""The turns of a chat, one under the other; it follows what is written unless the reader has scrolled up."""

from PySide6.QtCore import QSize, Qt
from PySide6.QtWidgets import QScrollArea, QVBoxLayout, QWidget

from ui.widgets.basics import label
from ui.widgets.chat_message import Message


class _Turns(QWidget):
    def minimumSizeHint(self) -> QSize:
        """As high as its width asks for: the layout's own would be the sum of what narrow labels would need."""
        return QSize(super().minimumSizeHint().width(), 0)


class Conversation(QScrollArea):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Message] = []
        turns = _Turns()
        self._turns = QVBoxLayout(turns)
        self._turns.setSpacing(14)
        self._turns.setContentsMargins(0, 0, 12, 0)
        self._greeting = label("Nothing said yet.", "muted")
        self._turns.addWidget(self._greeting)
        self._turns.addStretch(1)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(turns)
        self.setMinimumHeight(330)
        self.setAccessibleName("Conversation")
        self.viewport().setAutoFillBackground(False)
        turns.setAutoFillBackground(False)
        self._at_end = True
        self.verticalScrollBar().rangeChanged.connect(self._follow)
        self.verticalScrollBar().valueChanged.connect(self._moved)

    def append(self, message: Message) -> None:
        self._greeting.hide()
        self._at_end = True
        self.messages.append(message)
        self._turns.insertWidget(self._turns.count() - 1, message)

    def drop_last(self) -> None:
        message = self.messages.pop()
        self._turns.removeWidget(message)
        message.hide()
        message.deleteLater()

    def clear(self) -> None:
        while self.messages:
            self.drop_last()
        self._greeting.show()

    def _follow(self, _: int, maximum: int) -> None:
        if self._at_end:
            self.verticalScrollBar().setValue(maximum)

    def _moved(self, value: int) -> None:
        self._at_end = value >= self.verticalScrollBar().maximum() - 8

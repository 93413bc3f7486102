"""One turn of a chat: who, the picture, the reasoning, the words, the tools to be called."""

from PySide6.QtCore import QSize, QTimer
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QFrame, QLabel, QVBoxLayout

from ui.chat import Turn
from ui.widgets.basics import label, set_text
from ui.widgets.fold import Fold
from ui.widgets.picture import thumbnail


class Message(QFrame):
    """Shows a turn, and again after `changed`."""

    def __init__(self, turn: Turn, image: QImage | None = None) -> None:
        super().__init__()
        self.turn = turn
        self.reasoning = Fold("reasoning")
        self._text = label("", wrap=True, selectable=True)
        self._calls: list[QLabel] = []
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(4)
        self._layout.addWidget(label("You" if turn.role == "user" else "Answer", "caption"))
        if image is not None and not image.isNull():
            self._layout.addWidget(thumbnail(image, QSize(220, 140)))
        self._layout.addWidget(self.reasoning)
        self._layout.addWidget(self._text)
        # A repaint for every token would cost more than the tokens do.
        self._flush = QTimer(self, singleShot=True, interval=33)
        self._flush.timeout.connect(self._show)
        self._show()

    def text(self) -> str:
        return self.turn.text

    def calls(self) -> list[str]:
        return [shown.text() for shown in self._calls]

    def changed(self) -> None:
        if not self._flush.isActive():
            self._flush.start()

    def _show(self) -> None:
        turn = self.turn
        self.reasoning.set_text(turn.reasoning.strip())
        if turn.text.strip() or turn.calls:
            self.reasoning.close_by_itself()
        set_text(self._text, turn.text)
        while len(self._calls) < len(turn.calls):
            shown = label("", "code", wrap=True, selectable=True)
            self._layout.addWidget(shown)
            self._calls.append(shown)
        for shown, call in zip(self._calls, turn.calls.values(), strict=True):
            set_text(shown, call.text())

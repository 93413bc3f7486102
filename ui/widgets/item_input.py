"""One item to ask a model with, by its kind: what all ways to give one have in common, and the two for text."""

import json
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QPlainTextEdit, QVBoxLayout, QWidget

from ui.widgets.basics import label


class ItemInput(QWidget):
    """``changed`` when the item is another one, ``entered`` when it is to be sent at once."""

    changed = Signal()
    entered = Signal()
    hint = ""
    """What can be done with it, in a few words."""

    def item(self) -> bytes:
        """As `/v2` takes it. Raises `ValueError` with what is missing."""
        raise NotImplementedError

    def sample(self) -> Any:
        """The same as JSON of `/v1/classify` has it, for code; bytes are told by the name of their file."""
        raise NotImplementedError

    def is_empty(self) -> bool:
        raise NotImplementedError

    def clear(self) -> None:
        raise NotImplementedError


class TextBox(QPlainTextEdit):
    """Enter sends, Shift+Enter begins a new line."""

    entered = Signal()

    def __init__(self, name: str, placeholder: str, height: int) -> None:
        super().__init__()
        self.setPlaceholderText(placeholder)
        self.setAccessibleName(name)
        self.setTabChangesFocus(True)
        self.setFixedHeight(height)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        enter = event.key() in {Qt.Key.Key_Return, Qt.Key.Key_Enter}
        if enter and not event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            self.entered.emit()
        else:
            super().keyPressEvent(event)


class TextInput(ItemInput):
    hint = "Enter asks, Shift+Enter begins a new line"

    def __init__(self) -> None:
        super().__init__()
        self.box = TextBox("Text", "Write something.", 180)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.box)
        self.box.textChanged.connect(self.changed)
        self.box.entered.connect(self.entered)

    def item(self) -> bytes:
        text = self.box.toPlainText()
        if not text.strip():
            raise ValueError("Write something first.")
        return text.encode()

    def sample(self) -> Any:
        return self.box.toPlainText()

    def is_empty(self) -> bool:
        return not self.box.toPlainText().strip()

    def clear(self) -> None:
        self.box.clear()


class PairInput(ItemInput):
    """Two texts that are read together: a query and a document."""

    hint = "Enter asks"

    def __init__(self) -> None:
        super().__init__()
        self.query = TextBox("Query", "What is looked for.", 64)
        self.document = TextBox("Document", "The text that may answer it.", 130)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        for box in (self.query, self.document):
            layout.addWidget(label(box.accessibleName(), "caption"))
            layout.addWidget(box)
            box.textChanged.connect(self.changed)
            box.entered.connect(self.entered)

    def item(self) -> bytes:
        if self.is_empty():
            raise ValueError("Write a query and a document first.")
        return json.dumps([self.query.toPlainText(), self.document.toPlainText()], ensure_ascii=False).encode()

    def sample(self) -> Any:
        return {"query": self.query.toPlainText(), "documents": [self.document.toPlainText()]}

    def is_empty(self) -> bool:
        return not (self.query.toPlainText().strip() and self.document.toPlainText().strip())

    def clear(self) -> None:
        self.query.clear()
        self.document.clear()

"""Asking before something is destroyed: the only dialog there is."""

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDialog, QVBoxLayout, QWidget

from ui.widgets.basics import button, label, row


class Confirm(QDialog):
    """Says what will be gone; ``act`` runs when the user agrees. Does not block: `open` it."""

    def __init__(self, parent: QWidget, title: str, text: str, verb: str, act: Callable[[], object]) -> None:
        super().__init__(parent)
        self.setWindowTitle(title)
        self.setModal(True)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        words = label(text, "muted", wrap=True)
        words.setMinimumWidth(360)
        self.keep = button("Keep", self.reject)
        self.agree = button(verb, self.accept, "danger")
        self.keep.setDefault(True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(20, 18, 20, 16)
        layout.setSpacing(10)
        layout.addWidget(label(title, "heading"))
        layout.addWidget(words)
        layout.addSpacing(6)
        layout.addLayout(row(None, self.keep, self.agree))
        self.accepted.connect(act)

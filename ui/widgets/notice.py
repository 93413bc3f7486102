"""What happened, what to do, and the details for who wants them."""

from collections.abc import Callable

import msgspec
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFrame, QHBoxLayout, QPlainTextEdit, QVBoxLayout

from app.schema.manage import Problem
from ui.widgets.basics import button, label, set_text
from ui.widgets.mark import MarkDot
from ui.words import Mark


class Notice(QFrame):
    """A mark, a sentence, a hint, at most one action; details fold out and can be copied."""

    def __init__(self, *, dismissible: bool = False) -> None:
        super().__init__()
        self.setObjectName("notice")
        self._dot = MarkDot("wrong")
        self._message = label("", "strong", wrap=True, selectable=True)
        self._hint = label("", "muted", wrap=True, selectable=True)
        self._more = button("Details", self._toggle, "link")
        self._copy = button("Copy details", self._copy_details, "link")
        self._close = button("Dismiss", self.hide, "link")
        if not dismissible:
            self._close.hide()
        self.action = button("")
        self._on_action: Callable[[], object] | None = None
        self.action.clicked.connect(lambda: self._on_action and self._on_action())
        self._details = QPlainTextEdit()
        self._details.setReadOnly(True)
        self._details.setProperty("role", "code")
        self._details.setFixedHeight(120)
        self._details.setAccessibleName("Details of the problem")
        links = QHBoxLayout()
        links.setSpacing(4)
        for item in (self._more, self._copy, self._close):
            links.addWidget(item)
        links.addStretch(1)
        links.addWidget(self.action)
        texts = QVBoxLayout()
        texts.setSpacing(4)
        for widget in (self._message, self._hint):
            texts.addWidget(widget)
        texts.addLayout(links)
        texts.addWidget(self._details)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(14, 12, 14, 10)
        layout.setSpacing(10)
        layout.addWidget(self._dot, 0, Qt.AlignmentFlag.AlignTop)
        layout.addLayout(texts, 1)
        self.hide()

    def show_problem(
        self, problem: Problem, does: str = "", *, action: str = "", act: Callable[[], object] | None = None
    ) -> None:
        """``does`` says what the problem means for the user: "digits was not started"."""
        message = f"{does}: {problem.message}" if does else problem.message
        details = f"{problem.code}\n{problem.message}\n{problem.hint}".strip()
        if problem.details:
            details += "\n" + msgspec.json.format(msgspec.json.encode(problem.details), indent=2).decode()
        self._show("wrong", message, problem.hint, details)
        self._on_action = act
        set_text(self.action, action)  # type: ignore[arg-type]
        self.action.setAccessibleName(action)

    def message(self) -> str:
        return self._message.text() if not self.isHidden() else ""

    def _show(self, mark: Mark, message: str, hint: str, details: str) -> None:
        self._dot.set_mark(mark)
        set_text(self._message, message)
        set_text(self._hint, hint)
        if self._details.toPlainText() != details:
            self._details.setPlainText(details)
            self._details.hide()
        self._details.setVisible(bool(details) and not self._details.isHidden())
        self._more.setVisible(bool(details))
        self._copy.setVisible(bool(details))
        self.action.hide()
        self.setAccessibleName(message)
        self.show()

    def _toggle(self) -> None:
        self._details.setVisible(self._details.isHidden())

    def _copy_details(self) -> None:
        QGuiApplication.clipboard().setText(self._details.toPlainText())

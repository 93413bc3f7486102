"""Code to read and to copy."""

from PySide6.QtCore import QTimer
from PySide6.QtGui import QGuiApplication, QResizeEvent
from PySide6.QtWidgets import QPlainTextEdit, QVBoxLayout, QWidget

from ui.theme import font
from ui.widgets.basics import button, label, row
from ui.widgets.segmented import Segmented


class CodeBlock(QWidget):
    """One piece of code in several languages. ``set_code({"curl": text, …})``."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self._code: dict[str, str] = {}
        self._language = Segmented("Language of the call")
        self._language.chosen.connect(lambda _: self._show())
        self._copy = button("Copy", self._copy_code, name="Copy the code")
        self._revert = QTimer(self, singleShot=True, interval=1200)
        self._revert.timeout.connect(lambda: self._copy.setText("Copy"))
        # Lines wrap anew only once the text has its new width.
        self._fit_soon = QTimer(self, singleShot=True, interval=0)
        self._fit_soon.timeout.connect(self._fit_height)
        self._text = QPlainTextEdit()
        self._text.setReadOnly(True)
        self._text.setProperty("role", "code")
        self._text.setFont(font(12, mono=True))
        self._text.setLineWrapMode(QPlainTextEdit.LineWrapMode.WidgetWidth)
        self._text.setAccessibleName(title)
        self._text.document().documentLayout().documentSizeChanged.connect(lambda _: self._fit_height())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(10)
        layout.addLayout(row(label(title, "card"), None, self._language, self._copy))
        layout.addWidget(self._text)

    def set_code(self, code: dict[str, str]) -> None:
        if code != self._code:
            self._code = code
            self._language.set_choices([(name, name) for name in code])
            self._show()

    def text(self) -> str:
        return self._text.toPlainText()

    def choose(self, language: str) -> None:
        self._language.press(language)

    def _show(self) -> None:
        text = self._code.get(self._language.current(), "")
        if text != self._text.toPlainText():
            self._text.setPlainText(text)
        self._fit_height()
        self._fit_soon.start()

    def _fit_height(self) -> None:
        """As high as the text; a plain text document counts its height in lines, wrapped ones included."""
        lines = self._text.document().documentLayout().documentSize().height()
        self._text.setFixedHeight(int(min(20, max(2, lines)) * self._text.fontMetrics().lineSpacing()) + 26)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit_soon.start()

    def _copy_code(self) -> None:
        QGuiApplication.clipboard().setText(self.text())
        self._copy.setText("Copied")
        self._revert.start()

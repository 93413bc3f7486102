"""The answer as it came, for who wants it."""

import json
from typing import Any

from PySide6.QtWidgets import QPlainTextEdit, QVBoxLayout, QWidget

from ui.theme import font
from ui.widgets.basics import button, row

#: Numbers of a list that are shown; the rest is told by their count.
MOST_NUMBERS = 24


def shortened(value: Any) -> Any:
    """Long lists of plain values cut, with how many were left out."""
    if isinstance(value, dict):
        return {key: shortened(entry) for key, entry in value.items()}
    if isinstance(value, list):
        if len(value) > MOST_NUMBERS and not any(isinstance(entry, dict | list) for entry in value):
            return [*value[:MOST_NUMBERS], f"… {len(value) - MOST_NUMBERS:,} more"]
        return [shortened(entry) for entry in value]
    return value


def pretty(value: Any, indent: str = "") -> str:
    """JSON with one entry a line, plain lists on one."""
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        lines = [
            f"{deeper}{json.dumps(key, ensure_ascii=False)}: {pretty(entry, deeper)}" for key, entry in value.items()
        ]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        return "[\n" + ",\n".join(deeper + pretty(entry, deeper) for entry in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


class RawAnswer(QWidget):
    """Folded until it is asked for; hidden while there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.link = button("Show raw answer", self._toggle, "link")
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setProperty("role", "code")
        self.text.setFont(font(12, mono=True))
        self.text.setFixedHeight(200)
        self.text.setAccessibleName("Raw answer")
        self.text.setTabChangesFocus(True)
        self.text.hide()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addLayout(row(self.link, None))
        layout.addWidget(self.text)
        self.hide()

    def set_answer(self, answer: Any) -> None:
        self.text.setPlainText(pretty(shortened(answer)))
        self.show()

    def clear(self) -> None:
        self.hide()

    def _toggle(self) -> None:
        opened = self.text.isHidden()
        self.text.setVisible(opened)
        self.link.setText("Hide raw answer" if opened else "Show raw answer")
        self.link.setAccessibleName(self.link.text())

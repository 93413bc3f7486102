"""How a chat is to be answered: the system prompt, the temperature, the most tokens, reasoning, the adapter."""

from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QDoubleSpinBox, QPlainTextEdit, QSpinBox, QVBoxLayout, QWidget

from ui.widgets.basics import label, row
from ui.widgets.segmented import Segmented


class ChatOptions(QWidget):
    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.system = QPlainTextEdit()
        self.system.setPlaceholderText("System prompt: who should answer, and how. May stay empty.")
        self.system.setAccessibleName("System prompt")
        self.system.setTabChangesFocus(True)
        self.system.setFixedHeight(52)
        self.system.textChanged.connect(self.changed)
        self.temperature = QDoubleSpinBox()
        self.temperature.setRange(0, 2)
        self.temperature.setSingleStep(0.1)
        self.temperature.setDecimals(2)
        self.temperature.setValue(0.7)
        self.temperature.setAccessibleName("Temperature")
        self.max_tokens = QSpinBox()
        self.max_tokens.setRange(1, 32768)
        self.max_tokens.setValue(256)
        self.max_tokens.setAccessibleName("Most tokens to answer with")
        for box in (self.temperature, self.max_tokens):
            box.setFixedWidth(84)
            box.lineEdit().setTextMargins(6, 0, 6, 0)
            box.valueChanged.connect(lambda _: self.changed.emit())
        self.thinking = Segmented("Reasoning", [("", "As it likes"), ("on", "On"), ("off", "Off")])
        self.adapter = Segmented("Adapter")
        self._thinking_row = _named("Reasoning", self.thinking)
        self._adapter_row = _named("Adapter", self.adapter)
        for segments in (self.thinking, self.adapter):
            segments.chosen.connect(lambda _: self.changed.emit())
        for row_ in (self._thinking_row, self._adapter_row):
            row_.hide()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(10)
        layout.addWidget(self.system)
        layout.addLayout(
            row(label("Temperature", "muted"), self.temperature, None, label("Most tokens", "muted"), self.max_tokens)
        )
        layout.addWidget(self._thinking_row)
        layout.addWidget(self._adapter_row)

    def offer(self, thinking: bool, adapters: list[str]) -> None:
        """What this model lets one choose."""
        self._thinking_row.setVisible(thinking)
        self._adapter_row.setVisible(bool(adapters))
        self.adapter.set_choices([("", "None"), *((name, name) for name in adapters)] if adapters else [])

    def model(self, route: str) -> str:
        """What a request names: the route, or one of its adapters."""
        return f"{route}:{self.adapter.current()}" if self.adapter.current() else route

    def opening(self) -> list[dict[str, Any]]:
        """The messages that come before the conversation."""
        system = self.system.toPlainText().strip()
        return [{"role": "system", "content": system}] if system else []

    def sampling(self) -> dict[str, Any]:
        """What else a request says."""
        thinking = self.thinking.current() if not self._thinking_row.isHidden() else ""
        said: dict[str, Any] = {"enable_thinking": thinking == "on"} if thinking else {}
        return {"temperature": round(self.temperature.value(), 2), "max_tokens": self.max_tokens.value(), **said}


def _named(name: str, control: QWidget) -> QWidget:
    made = QWidget()
    made.setLayout(row(label(name, "muted"), None, control))
    return made

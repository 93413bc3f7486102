"""Trying a language model: a chat that streams, with the time to the first token and the rate."""

from typing import Any

import msgspec
from PySide6.QtCore import QElapsedTimer, Qt, QTimer
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import (
    QDoubleSpinBox,
    QFrame,
    QPlainTextEdit,
    QPushButton,
    QScrollArea,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from app.schema.manage import Deployment, Problem
from ui import format
from ui.session import Session
from ui.snippets import chat_code
from ui.sse import Event
from ui.transport import Stream
from ui.widgets.basics import button, column, label, row, rule, set_text
from ui.widgets.card import Card
from ui.widgets.code_block import CodeBlock
from ui.widgets.facts import Facts
from ui.widgets.notice import Notice
from ui.widgets.split import Split


class Message(QFrame):
    """One turn: who, and what."""

    def __init__(self, role: str, text: str = "") -> None:
        super().__init__()
        self.role = role
        self._text = label(text, wrap=True, selectable=True)
        self._pending = text
        self.setLayout(column(label("You" if role == "user" else "Answer", "caption"), self._text, spacing=2))
        # A repaint for every token would cost more than the tokens do.
        self._flush = QTimer(self, singleShot=True, interval=33)
        self._flush.timeout.connect(lambda: self._text.setText(self._pending))

    def text(self) -> str:
        return self._pending

    def append(self, piece: str) -> None:
        self._pending += piece
        if not self._flush.isActive():
            self._flush.start()


class Prompt(QPlainTextEdit):
    """Enter sends, Shift+Enter begins a new line."""

    def __init__(self, send: QPushButton) -> None:
        super().__init__()
        self._send = send
        self.setPlaceholderText("Ask something. Enter sends, Shift+Enter begins a new line.")
        self.setAccessibleName("Message")
        self.setTabChangesFocus(True)
        self.setFixedHeight(64)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        enter = event.key() in {Qt.Key.Key_Return, Qt.Key.Key_Enter}
        if enter and not event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            self._send.click()
        else:
            super().keyPressEvent(event)


class ChatPanel(QWidget):
    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._deployment: Deployment | None = None
        self._stream: Stream | None = None
        self._answer: Message | None = None
        self._clock = QElapsedTimer()
        self._first_ms: float | None = None
        self._pieces = 0
        self._tokens: int | None = None
        self.messages: list[Message] = []

        self.stats = label("", "caption")
        chat = Card("Chat", self.stats)
        self._thread = QVBoxLayout()
        self._thread.setSpacing(14)
        self._thread.setContentsMargins(0, 0, 12, 0)
        self._thread.addStretch(1)
        holder = QWidget()
        holder.setLayout(self._thread)
        self._scroll = QScrollArea()
        self._scroll.setWidgetResizable(True)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._scroll.setWidget(holder)
        self._scroll.setMinimumHeight(330)
        self._scroll.setAccessibleName("Conversation")
        self._scroll.viewport().setAutoFillBackground(False)
        holder.setAutoFillBackground(False)
        self._scroll.verticalScrollBar().rangeChanged.connect(self._follow)
        self._scroll.verticalScrollBar().valueChanged.connect(self._moved)
        self._at_end = True
        self.problem = Notice()
        self.send = button("Send", self.ask, "primary")
        self.stop = button("Stop", self._stop)
        self.stop.hide()
        self.fresh = button("New chat", self._fresh)
        self.prompt = Prompt(self.send)
        chat.add(self._scroll, 1)
        for item in (self.problem, self.prompt):
            chat.add(item)
        chat.add(row(self.fresh, None, self.stop, self.send))

        self.note = label("", "muted", wrap=True)
        self.facts = Facts()
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
            box.valueChanged.connect(lambda _: self._show_code())
        about = Card("Model")
        about.add(self.note)
        about.add(self.facts)
        about.add(
            row(label("Temperature", "muted"), self.temperature, None, label("Most tokens", "muted"), self.max_tokens)
        )
        about.add(rule())
        self.code = CodeBlock("The same call")
        about.add(self.code)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(Split(chat, about, (7, 5), 720))
        self.prompt.textChanged.connect(self._show_code)
        self._greeting = label("Nothing said yet.", "muted")
        self._thread.insertWidget(0, self._greeting)

    def show_deployment(self, deployment: Deployment) -> None:
        self._deployment = deployment
        set_text(self.note, "\n".join(deployment.notes))
        sample = self._session.station.samples.get(deployment.route)
        self.facts.set_facts(
            [
                ("Context", f"{deployment.context_tokens:,} tokens" if deployment.context_tokens else ""),
                ("At once", format.plural(deployment.sequences, "sequence") if deployment.sequences else ""),
                ("Template", deployment.chat_template or ""),
                (
                    "Now",
                    f"{format.number(sample.output_tokens_per_s)} tokens/s"
                    if sample and sample.output_tokens_per_s
                    else "",
                ),
            ]
        )
        self.send.setEnabled(deployment.state in {"ready", "idle"} and self._stream is None)
        self._show_code()

    # --- asking ----------------------------------------------------------------------------------------

    def ask(self) -> None:
        text = self.prompt.toPlainText().strip()
        if not text or self._deployment is None or self._stream is not None:
            return
        self.problem.hide()
        self._greeting.hide()
        self._add(Message("user", text))
        conversation = [{"role": message.role, "content": message.text()} for message in self.messages]
        self._answer = Message("assistant")
        self._add(self._answer)
        self.prompt.clear()
        self._first_ms, self._pieces, self._tokens, self._at_end = None, 0, None, True
        self._clock.start()
        self._stream = self._session.client.stream(
            "/v1/chat/completions",
            {
                "model": self._deployment.route, "messages": conversation, "stream": True,
                "temperature": round(self.temperature.value(), 2), "max_tokens": self.max_tokens.value(),
                "stream_options": {"include_usage": True},
            },
        )  # fmt: skip
        self._stream.received.connect(self._piece)
        self._stream.ended.connect(self._ended)
        self._show_running(True)

    def _piece(self, event: Event) -> None:
        if event.data == "[DONE]":
            return
        chunk: dict[str, Any] = msgspec.json.decode(event.data)
        if "error" in chunk:
            error = chunk["error"]
            message = error if isinstance(error, str) else str(error.get("message"))
            self.problem.show_problem(Problem(code="engine_failed", message=message), "The answer broke off")
            return
        for choice in chunk.get("choices", []):
            content = choice.get("delta", {}).get("content")
            if content and self._answer is not None:
                if self._first_ms is None:
                    self._first_ms = self._clock.nsecsElapsed() / 1e6
                self._pieces += 1
                self._answer.append(content)
        if usage := chunk.get("usage"):
            self._tokens = usage.get("completion_tokens")
        self._show_stats()

    def _ended(self, problem: Problem | None) -> None:
        self._stream = None
        self._show_stats()
        self._show_running(False)
        if problem is not None:
            self.problem.show_problem(problem, "No answer" if not self._pieces else "The answer broke off")
        if self._answer is not None and not self._answer.text():
            self.messages.remove(self._answer)
            self._answer.deleteLater()
        self._answer = None

    def _show_stats(self) -> None:
        tokens = self._tokens or self._pieces
        if self._first_ms is None:
            self.stats.setText("")
            return
        seconds = (self._clock.nsecsElapsed() / 1e6 - self._first_ms) / 1000
        rate = (tokens - 1) / seconds if tokens > 1 and seconds > 0 else None
        self.stats.setText(
            format.joined(
                f"first token {format.milliseconds(self._first_ms)}",
                f"{format.number(rate)} tokens/s" if rate else "", format.plural(tokens, "token"),
            )
        )  # fmt: skip

    def _show_running(self, running: bool) -> None:
        self.stop.setVisible(running)
        self.send.setEnabled(not running)
        self.fresh.setEnabled(not running)
        if not running:
            self.prompt.setFocus()

    def _stop(self) -> None:
        if self._stream is not None:
            self._stream.stop()

    def _fresh(self) -> None:
        for message in self.messages:
            self._thread.removeWidget(message)
            message.deleteLater()
        self.messages.clear()
        self._greeting.show()
        self.stats.setText("")
        self.problem.hide()

    def _add(self, message: Message) -> None:
        self.messages.append(message)
        self._thread.insertWidget(self._thread.count() - 1, message)

    def _follow(self, _: int, maximum: int) -> None:
        if self._at_end:
            self._scroll.verticalScrollBar().setValue(maximum)

    def _moved(self, value: int) -> None:
        self._at_end = value >= self._scroll.verticalScrollBar().maximum() - 8

    def _show_code(self) -> None:
        if self._deployment is not None:
            said = [message.text() for message in self.messages if message.role == "user"]
            prompt = self.prompt.toPlainText().strip() or (said[-1] if said else "")
            temperature = round(self.temperature.value(), 2)
            self.code.set_code(
                chat_code(
                    self._session.client.url, self._deployment.route, prompt, temperature, self.max_tokens.value()
                )
            )

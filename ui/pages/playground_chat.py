"""Trying a language model: a chat that streams, with the time to the first token and the rate."""

from pathlib import Path
from typing import Any

import msgspec
from PySide6.QtCore import QElapsedTimer, QMimeData, Qt, Signal
from PySide6.QtGui import QImage, QKeyEvent
from PySide6.QtWidgets import QFileDialog, QPlainTextEdit, QPushButton, QVBoxLayout, QWidget

from app.schema.manage import Deployment, Problem
from ui import format
from ui.chat import Answer, Turn
from ui.session import Session
from ui.snippets import chat_code
from ui.sse import Event
from ui.transport import Stream
from ui.widgets.basics import button, label, row, rule, set_text
from ui.widgets.card import Card
from ui.widgets.chat_message import Message
from ui.widgets.chat_options import ChatOptions
from ui.widgets.code_block import CodeBlock
from ui.widgets.conversation import Conversation
from ui.widgets.facts import Facts
from ui.widgets.notice import Notice
from ui.widgets.picture import FILTER, Attachment, data_url, picture_in, read_picture
from ui.widgets.split import Split
from ui.words import abilities, chat_template, context


class Prompt(QPlainTextEdit):
    """Enter sends, Shift+Enter begins a new line. While ``takes_pictures``, one that is pasted or dropped is told."""

    pictured = Signal(QImage)

    def __init__(self, send: QPushButton) -> None:
        super().__init__()
        self._send = send
        self.takes_pictures = False
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

    def canInsertFromMimeData(self, source: QMimeData) -> bool:
        return (self.takes_pictures and (source.hasImage() or source.hasUrls())) or super().canInsertFromMimeData(
            source
        )

    def insertFromMimeData(self, source: QMimeData) -> None:
        image = picture_in(source) if self.takes_pictures else QImage()
        if image.isNull():
            super().insertFromMimeData(source)
        else:
            self.pictured.emit(image)


class ChatPanel(QWidget):
    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._deployment: Deployment | None = None
        self._stream: Stream | None = None
        self._answer = Answer()
        self._clock = QElapsedTimer()

        self.stats = label("", "caption")
        chat = Card("Chat", self.stats)
        self.conversation = Conversation()
        self.messages = self.conversation.messages
        self.problem = Notice()
        self.send = button("Send", self.ask, "primary")
        self.stop = button("Stop", self._stop)
        self.stop.hide()
        self.fresh = button("New chat", self._fresh)
        self.prompt = Prompt(self.send)
        self.picture = Attachment()
        self.prompt.pictured.connect(self.picture.set_image)
        self.attach = button("Picture…", self._choose_picture, name="Attach a picture")
        self.attach.hide()
        chat.add(self.conversation, 1)
        chat.add(self.problem)
        chat.add(self.picture)
        chat.add(self.prompt)
        chat.add(row(self.fresh, self.attach, None, self.stop, self.send))

        self.note = label("", "muted", wrap=True)
        self.facts = Facts()
        self.options = ChatOptions()
        self.last = Facts()
        self._last_title = label("Last answer", "card")
        about = Card("Model")
        self.code = CodeBlock("The same call")
        parts: list[QWidget] = [
            self.note, self.facts, self.options, self._last_title, self.last, rule(), self.code,
        ]  # fmt: skip
        for part in parts:
            about.add(part)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(Split(chat, about, (7, 5), 720, tall=True))
        self.prompt.textChanged.connect(self._show_code)
        self.options.changed.connect(self._show_code)
        self.picture.changed.connect(self._show_code)
        self._show_last([])

    def show_deployment(self, deployment: Deployment) -> None:
        self._deployment = deployment
        set_text(self.note, "\n".join(deployment.notes))
        sample = self._session.station.samples.get(deployment.route)
        self.facts.set_facts(
            [
                ("Can do", abilities(deployment)),
                ("Context", context(deployment)),
                ("At once", format.plural(deployment.sequences, "sequence") if deployment.sequences else ""),
                ("Template", chat_template(deployment)),
                (
                    "Now",
                    f"{format.number(sample.output_tokens_per_s)} tokens/s"
                    if sample and sample.output_tokens_per_s
                    else "",
                ),
            ]
        )
        sees = "vision" in deployment.capabilities
        self.attach.setVisible(sees)
        self.prompt.takes_pictures = sees
        if not sees:
            self.picture.clear()
        self.options.offer("thinking" in deployment.capabilities, deployment.adapters)
        self.send.setEnabled(deployment.state in {"ready", "idle"} and self._stream is None)
        self._show_code()

    # --- asking ----------------------------------------------------------------------------------------

    def ask(self) -> None:
        text, image = self.prompt.toPlainText().strip(), self.picture.image
        if not (text or not image.isNull()) or self._deployment is None or self._stream is not None:
            return
        self.problem.hide()
        self.conversation.append(Message(Turn("user", text, "" if image.isNull() else data_url(image)), image))
        conversation = [message.turn.as_sent() for message in self.messages]
        self._answer = Answer()
        self.conversation.append(Message(self._answer.turn))
        self.prompt.clear()
        self.picture.clear()
        self._clock.start()
        self._stream = self._session.client.stream(
            "/v1/chat/completions",
            {
                "model": self.options.model(self._deployment.route),
                "messages": self.options.opening() + conversation, "stream": True,
                "stream_options": {"include_usage": True}, **self.options.sampling(),
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
        self._answer.take(chunk, self._clock.nsecsElapsed() / 1e6)
        self.messages[-1].changed()
        self.stats.setText(self._answer.sentence())

    def _ended(self, problem: Problem | None) -> None:
        self._stream = None
        self._show_running(False)
        self.stats.setText(self._answer.sentence())
        self._show_last(self._answer.facts())
        if problem is not None:
            self.problem.show_problem(problem, "The answer broke off" if self._answer.pieces else "No answer")
        if self._answer.turn.is_empty():
            self.conversation.drop_last()

    def _show_last(self, facts: list[tuple[str, str]]) -> None:
        self.last.set_facts(facts)
        for widget in (self._last_title, self.last):
            widget.setVisible(any(value for _, value in facts))

    def _choose_picture(self) -> None:
        dialog = QFileDialog(self, "Attach a picture", "", FILTER)
        dialog.fileSelected.connect(self.attach_picture)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.open()

    def attach_picture(self, path: str) -> None:
        image = read_picture(path)
        if image.isNull():
            message = f"{Path(path).name} is not a picture that can be read here."
            self.problem.show_problem(Problem(code="unreadable", message=message, hint="PNG and JPEG always can."))
        else:
            self.problem.hide()
            self.picture.set_image(image, path)

    def _show_running(self, running: bool) -> None:
        self.stop.setVisible(running)
        self.send.setEnabled(not running)
        self.fresh.setEnabled(not running)
        if not running:
            self.prompt.setFocus()

    def _stop(self) -> None:
        if self._stream is not None:
            self._answer.finish_reason = "stopped"
            self._stream.stop()

    def _fresh(self) -> None:
        self.conversation.clear()
        self.stats.setText("")
        self._show_last([])
        self.problem.hide()

    def _show_code(self) -> None:
        if self._deployment is not None:
            said = [message.text() for message in self.messages if message.turn.role == "user"]
            prompt = self.prompt.toPlainText().strip() or (said[-1] if said else "Hello")
            picture = "" if self.picture.image.isNull() else "data:image/jpeg;base64,…"
            messages = [*self.options.opening(), Turn("user", prompt, picture).as_sent()]
            self.code.set_code(
                chat_code(
                    self._session.client.url,
                    self.options.model(self._deployment.route),
                    messages,
                    self.options.sampling(),
                )
            )

"""Trying a model with declared steps: a text, a picture, a sound or a row goes in; an answer that can be read comes
out."""

from typing import Any

from PySide6.QtCore import QElapsedTimer
from PySide6.QtWidgets import QVBoxLayout, QWidget

from app.schema.manage import Deployment, Problem
from ui import items, timing
from ui.session import Session
from ui.snippets import item_code
from ui.widgets.basics import button, label, row, rule
from ui.widgets.card import Card
from ui.widgets.code_block import CodeBlock
from ui.widgets.file_drop import FileDrop, PictureDrop, SoundDrop
from ui.widgets.item_answer import ItemAnswerView
from ui.widgets.item_input import ItemInput, PairInput, TextInput
from ui.widgets.notice import Notice
from ui.widgets.raw_answer import RawAnswer
from ui.widgets.row_form import RowForm
from ui.widgets.split import Split
from ui.widgets.split_bar import SplitBar

VERBS = {"classify": "Classify", "embedding": "Embed", "rerank": "Compare"}
WAITING = {
    "text": "Write something: what the model makes of it is shown here.",
    "image": "Drop a picture: what the model sees in it is shown here.",
    "audio": "Drop a sound: what the model hears in it is shown here.",
    "row": "Fill in the row: what the model makes of it is shown here.",
    "file": "Drop a file: what the model makes of it is shown here.",
}


def input_for(card: items.Card) -> ItemInput:
    match items.kind(card):
        case "text":
            return PairInput() if items.pairs(card) else TextInput()
        case "image":
            return PictureDrop()
        case "audio":
            return SoundDrop()
        case "row":
            return RowForm(items.columns(card), card.get("units", {}))
        case _:
            return FileDrop()


class ItemPanel(QWidget):
    def __init__(self, session: Session, deployment: Deployment) -> None:
        super().__init__()
        self._session = session
        self._deployment = deployment
        self._clock = QElapsedTimer()
        self._asking = False
        self._again = False
        card = deployment.card
        self.kind = items.kind(card)
        self.capability = next((word for word in VERBS if word in deployment.capabilities), "")
        self.input = input_for(card)
        first = Card("Input", label(self.input.hint, "caption"), chip=label(items.KINDS[self.kind].lower(), "chip"))
        self.clear = button("Clear", self._clear)
        self.open = button("Open…", self._open, name="Open a file")
        self.open.setVisible(isinstance(self.input, FileDrop))
        self.ask_button = button(VERBS.get(self.capability, "Ask"), self.ask, "primary")
        first.add(self.input)
        first.add(row(self.clear, self.open, None, self.ask_button))

        self.time = label("", "caption")
        second = Card("Answer", self.time)
        self._waiting = label(WAITING[self.kind], "muted", wrap=True)
        self.answer = ItemAnswerView(items.unit(card), card.get("units"))
        self.times = SplitBar("Where the time went")
        self.raw = RawAnswer()
        self.problem = Notice()
        self.code = CodeBlock("The same question")
        for part in (self._waiting, self.answer, self.times, self.raw, self.problem, rule(), self.code):
            second.add(part)
        self.times.hide()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(Split(first, second, (1, 1), 720))
        layout.addStretch(1)
        self.input.changed.connect(self._changed)
        self.input.entered.connect(self.ask)
        self._changed()

    def show_deployment(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._enable()

    def _enable(self) -> None:
        self.ask_button.setEnabled(self._deployment.state in {"ready", "idle"})

    def _changed(self) -> None:
        self.clear.setEnabled(not self.input.is_empty())
        sample = self.input.sample()
        if isinstance(self.input, FileDrop) and self.input.is_empty():
            sample = {self.kind: {"image": "picture.jpg", "audio": "sound.wav"}.get(self.kind, "a-file")}
        self.code.set_code(item_code(self._session.client.url, self._deployment.route, self.capability, sample))

    def _open(self) -> None:
        if isinstance(self.input, FileDrop):
            self.input.choose()

    def _clear(self) -> None:
        self.input.clear()
        for widget in (self.answer, self.times, self.raw, self.problem):
            widget.hide()
        self.time.setText("")
        self._waiting.show()

    # --- asking ----------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Sends the item; while an answer is awaited, the latest wish waits for it."""
        if self._asking:
            self._again = True
            return
        try:
            body, header_length = items.infer_body(self.input.item())
        except ValueError as error:
            self.problem.show_problem(Problem(code="invalid_input", message=str(error)))
            return
        self._asking = True
        self._clock.start()
        self._session.client.ask(
            f"/v2/models/{self._deployment.route}/infer", body, self._answered, self._refused,
            {"Inference-Header-Content-Length": str(header_length)},
        )  # fmt: skip

    def _answered(self, answer: Any, headers: dict[str, str]) -> None:
        total_ms = self._clock.nsecsElapsed() / 1e6
        read = items.read_items(answer.get("outputs", []), self._deployment.labels)
        self.problem.hide()
        self._waiting.hide()
        self.answer.show_answer(read)
        if isinstance(self.input, PictureDrop):
            self.input.set_boxes(read.boxes)
        self.times.set_parts(timing.parts(headers, total_ms))
        self.raw.set_answer(answer)
        self.time.setText(timing.sentence(headers, total_ms))
        self._ended()

    def _refused(self, problem: Problem) -> None:
        self.answer.clear()
        self.times.hide()
        self.raw.clear()
        self._waiting.hide()
        self.time.setText("")
        self.problem.show_problem(problem, "No answer")
        self._ended()

    def _ended(self) -> None:
        self._asking = False
        if self._again:
            self._again = False
            self.ask()

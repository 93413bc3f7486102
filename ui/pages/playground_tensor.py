"""Trying a tensor model: a pad for a picture, a field for anything else; the answer with its confidence."""

import json
from typing import Any

import msgspec
from PySide6.QtCore import QElapsedTimer
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QFileDialog, QPlainTextEdit, QVBoxLayout, QWidget

from app.schema.manage import Deployment, Problem, Sample, TensorMetadata
from ui import format, timing
from ui.session import Session
from ui.snippets import infer_code
from ui.tensors import FLOATS, ImageInput, concrete, count, image_input, read_answer, shape_text
from ui.theme import font
from ui.widgets.bars import Bar, Bars
from ui.widgets.basics import button, label, row, rule, set_text
from ui.widgets.card import Card
from ui.widgets.code_block import CodeBlock
from ui.widgets.drawing_pad import DrawingPad
from ui.widgets.notice import Notice
from ui.widgets.raw_answer import RawAnswer
from ui.widgets.split import Split
from ui.widgets.split_bar import SplitBar


class TensorField(QWidget):
    """One input: a pad where it takes a picture, else a JSON array (or, for text, a line)."""

    def __init__(self, meta: TensorMetadata, input_range: list[float] | None) -> None:
        super().__init__()
        self.meta = meta
        self.image: ImageInput | None = image_input(meta, input_range)
        self.pad: DrawingPad | None = None
        self.shape = concrete(meta.shape)
        self.text = QPlainTextEdit()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        if self.image is not None:
            self.pad = DrawingPad(self.image.rows, self.image.columns, self.image.channels)
            layout.addWidget(self.pad)
            return
        zero: object = "" if meta.datatype == "BYTES" else 0.0 if meta.datatype in FLOATS else 0
        self.text.setPlainText(json.dumps([zero] * min(count(meta.shape), 65536)))
        self.text.setFont(font(12, mono=True))
        self.text.setProperty("role", "code")
        self.text.setFixedHeight(110)
        self.text.setAccessibleName(f"Values of {meta.name}, a JSON array of {count(meta.shape)}")
        layout.addWidget(self.text)

    def entry(self) -> dict[str, Any]:
        """The input as `/v2` takes it. Raises `ValueError` with what is wrong."""
        if self.pad is not None and self.image is not None:
            data: list[Any] = self.image.to_tensor(self.pad.values())
            if self.meta.datatype == "UINT8":
                data = [round(value) for value in data]
        else:
            try:
                data = _flat(json.loads(self.text.toPlainText()))
            except json.JSONDecodeError as error:
                raise ValueError(f"{self.meta.name} is not a JSON array: {error.msg}") from None
        shape = self.shape
        if -1 in self.meta.shape and count(self.meta.shape) and len(data) != count(shape):
            shape = _infer_shape(self.meta.shape, len(data))
        if len(data) != count(shape):
            raise ValueError(f"{self.meta.name} takes {count(self.shape)} values, here are {len(data)}")
        return {"name": self.meta.name, "shape": shape, "datatype": self.meta.datatype, "data": data}

    def set_sample(self, values: list[float], shape: list[int]) -> None:
        if self.pad is not None and self.image is not None:
            self.pad.set_values(self.image.to_pad(values))
        else:
            whole = self.meta.datatype not in FLOATS
            self.text.setPlainText(json.dumps([int(value) for value in values] if whole else values))
        if len(shape) == len(self.meta.shape):
            self.shape = shape


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [leaf for item in value for leaf in _flat(item)]
    return [value]


def _infer_shape(shape: list[int], values: int) -> list[int]:
    """Gives the last free dimension what the values leave for it."""
    free = max(at for at, size in enumerate(shape) if size < 0)
    rest = count([size for at, size in enumerate(shape) if at != free])
    sizes = concrete(shape)
    sizes[free] = max(1, values // max(1, rest))
    return sizes


class TensorPanel(QWidget):
    def __init__(self, session: Session, deployment: Deployment) -> None:
        super().__init__()
        self._session = session
        self._deployment = deployment
        self._offset = 0
        self._truth: str | None = None
        self._clock = QElapsedTimer()
        self._asking = False
        self._again = False
        self._greeted = False
        input_range = self._input_range(deployment)
        self.fields = [TensorField(meta, input_range) for meta in deployment.inputs]
        pads = [field.pad for field in self.fields if field.pad is not None]
        self._pad = pads[0] if pads else None

        shape = label(shape_text(deployment.inputs[0]), "chip") if deployment.inputs else None
        first = Card("Input", label("draw, or drop an image" if self._pad else "", "caption"), chip=shape)
        for field in self.fields:
            if len(self.fields) > 1:
                first.add(label(f"{field.meta.name}  {shape_text(field.meta)}", "caption"))
            first.add(field)
            if field.pad is not None:
                field.pad.changed.connect(self._drawn)
        self.clear = button("Clear", self._clear)
        self.next = button("Next from held-out", self._next)
        self.open = button("Image…", self._choose_image, name="Open an image")
        self.predict = button("Predict", self.ask, "primary")
        first.add(row(self.clear, self.open, self.next, None, self.predict))
        for made in (self.clear, self.open):
            made.setVisible(self._pad is not None)

        self.time = label("", "caption")
        second = Card("Answer", self.time)
        self._waiting = label(
            "Draw something, or take the next held-out example." if self._pad else "Fill in the values and predict.",
            "muted",
            wrap=True,
        )
        self.bars = Bars("Most likely classes", row_height=30, bar_height=8, values_right=True)
        self.summary = QPlainTextEdit()
        self.summary.setReadOnly(True)
        self.summary.setProperty("role", "code")
        self.summary.setFont(font(12, mono=True))
        self.summary.setFixedHeight(160)
        self.summary.setAccessibleName("Answer")
        self.truth = label("", "muted", wrap=True)
        self.problem = Notice()
        self.times = SplitBar("Where the time went")
        self.raw = RawAnswer()
        for item in (
            self._waiting, self.bars, self.summary, self.truth, self.times, self.raw, self.problem, rule(),
        ):  # fmt: skip
            second.add(item)
        self.times.hide()
        self.code = CodeBlock("The same call")
        second.add(self.code)
        self.bars.hide()
        self.summary.hide()
        self.truth.hide()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(Split(first, second, (1, 1), 720))
        layout.addStretch(1)
        self._show_code()

    def _input_range(self, deployment: Deployment) -> list[float] | None:
        model = self._session.station.models.get(deployment.model)
        for version in model.versions if model else []:
            if version.version == deployment.version:
                found = version.metadata.get("input_range")
                return list(found) if found else None
        return None

    def show_deployment(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self.predict.setEnabled(bool(self.fields) and deployment.state in {"ready", "idle"})
        if not self._greeted and self.fields and deployment.state == "ready":
            # A first example says more than an empty pad; a model that came without any is left in peace.
            self._greeted = True
            self._session.samples(deployment.model, 0, self._greet, self._no_greeting)

    def _no_greeting(self, _problem: Problem) -> None:
        self.next.hide()

    def _greet(self, items: list[Any]) -> None:
        self.next.setVisible(bool(items))
        untouched = self._pad is None or self._pad.is_blank()
        if items and untouched:
            self._show_sample(items)

    # --- input -----------------------------------------------------------------------------------------

    def _drawn(self) -> None:
        self._truth = None
        if self._pad is not None and not self._pad.is_blank():
            self.ask()

    def _clear(self) -> None:
        if self._pad is not None:
            self._pad.clear()
        self._truth = None
        for widget in (self.bars, self.summary, self.truth, self.times, self.raw, self.problem):
            widget.hide()
        self.time.setText("")
        self._waiting.show()

    def _choose_image(self) -> None:
        dialog = QFileDialog(self, "Open an image", "", "Images (*.png *.jpg *.jpeg *.bmp *.webp *.gif)")
        dialog.fileSelected.connect(self.open_image)
        dialog.open()

    def open_image(self, path: str) -> None:
        image = QImage(path)
        if self._pad is not None and not image.isNull():
            self._pad.set_image(image)

    def _next(self) -> None:
        self._session.samples(self._deployment.model, self._offset, self._show_sample, self._no_sample)

    def _show_sample(self, items: list[Any]) -> None:
        if not items and self._offset:
            self._offset = 0
            self._next()
            return
        if not items:
            self._no_sample(Problem(code="no_samples", message="This model came without held-out examples."))
            return
        self._offset += 1
        sample = msgspec.convert(items[0], Sample)
        for field in self.fields:
            if field.meta.name in sample.inputs:
                field.set_sample(sample.inputs[field.meta.name], sample.shapes.get(field.meta.name, []))
        self._truth = sample.label
        self.ask()

    def _no_sample(self, problem: Problem) -> None:
        self.next.setEnabled(False)
        self.next.setToolTip(problem.message)
        self.problem.show_problem(problem)

    # --- asking ----------------------------------------------------------------------------------------

    def entries(self) -> list[dict[str, Any]]:
        return [field.entry() for field in self.fields]

    def ask(self) -> None:
        """Sends what the fields hold; while an answer is awaited, the latest wish waits for it."""
        if self._asking:
            self._again = True
            return
        try:
            entries = self.entries()
        except ValueError as error:
            self.problem.show_problem(Problem(code="invalid_input", message=str(error)))
            return
        self._asking = True
        self._show_code()
        self._clock.start()
        path = f"/v2/models/{self._deployment.route}/infer"
        self._session.client.ask(path, {"inputs": entries}, self._answered, self._refused)

    def _ended(self) -> None:
        self._asking = False
        if self._again:
            self._again = False
            self.ask()

    def _answered(self, answer: dict[str, Any], headers: dict[str, str]) -> None:
        total_ms = self._clock.nsecsElapsed() / 1e6
        parsed = read_answer(answer.get("outputs", []), self._deployment.labels)
        self.time.setText(
            format.joined(timing.sentence(headers, total_ms), "softmax of scores" if parsed.from_logits else "")
        )
        pipeline = self._deployment.spec.pipeline
        self.times.set_parts(
            timing.parts(headers, total_ms, [step.name for step in pipeline.steps] if pipeline else [])
        )
        self.raw.set_answer(answer)
        self.problem.hide()
        self._waiting.hide()
        self.bars.setVisible(bool(parsed.classes))
        self.summary.setVisible(not parsed.classes)
        self.summary.setPlainText(parsed.summary)
        top = parsed.classes[0][0] if parsed.classes else ""
        right = self._truth is None or self._truth == top
        self.bars.set_bars(
            [
                Bar(name, share, f"{share:.3f}", ("series_3" if right else "watch") if not at else "faint", not at)
                for at, (name, share) in enumerate(parsed.classes)
            ]
        )
        said = "" if self._truth is None else f"The held-out label is {self._truth}: {'right' if right else 'wrong'}."
        set_text(self.truth, said)
        self._ended()

    def _refused(self, problem: Problem) -> None:
        for widget in (self.times, self.raw):
            widget.hide()
        self.time.setText("")
        self.problem.show_problem(problem, "No answer")
        self._ended()

    def _show_code(self) -> None:
        try:
            entries = self.entries()
        except ValueError:
            return
        outputs = [meta.name for meta in self._deployment.outputs if meta.datatype in FLOATS]
        output = outputs[-1] if outputs else self._deployment.outputs[0].name if self._deployment.outputs else ""
        self.code.set_code(infer_code(self._session.client.url, self._deployment.route, entries, output))

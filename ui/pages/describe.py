"""Declaring what a tensor model means: its card, the names of its classes, files beside it such as a tokenizer."""

from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDialog, QFileDialog, QLabel, QPlainTextEdit, QVBoxLayout, QWidget

from app.schema.manage import Deployment, Problem, Version
from ui import cards, format
from ui.session import Session
from ui.theme import font
from ui.widgets.basics import button, label, row, set_text

EXAMPLE = (
    '{\n  "item": "text",\n  "before": [{"step": "tokenize", "max_tokens": 256}],\n'
    '  "after": [{"step": "softmax"}, {"step": "top_k", "k": 5}]\n}'
)
JSON_FILES = "JSON (*.json);;All files (*)"
NAMES = "Names (*.txt *.json);;All files (*)"
#: Where an error belongs: part of the field that the daemon names → one of the three places.
CARD, LABELS, FILES = "card", "labels", "files"


def place_of(field: str) -> str:
    """``card.labels[3]`` → labels, ``card.before[0].file`` → files, anything else → card."""
    if field.startswith("card.labels") or field == "labels":
        return LABELS
    if field.endswith(".file") or field.startswith("file"):
        return FILES
    return CARD


class Describe(QDialog):
    """Sends what was changed; an objection of the daemon stands at what it is about, and the dialog stays."""

    def __init__(self, session: Session, model: str, version: Version, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle(f"Describe {model} v{version.version}")
        self.setModal(True)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._session, self._model, self._version = session, model, version
        self.names = [str(name) for name in version.card.get("labels", ())]
        self.files: dict[str, bytes] = {}
        self._task = ""
        self.text = QPlainTextEdit()
        self.text.setProperty("role", "code")
        self.text.setFont(font(12, mono=True))
        self.text.setMinimumHeight(220)
        self.text.setPlaceholderText(EXAMPLE)
        self.text.setAccessibleName("Card, a JSON object")
        self.text.setTabChangesFocus(True)
        shown = {key: value for key, value in version.card.items() if key != "labels"}
        self.text.setPlainText(cards.text(shown) if shown else "")
        self._names = label("", "muted", wrap=True)
        self._files = label("", "muted", wrap=True)
        self.errors = {place: label("", "wrong", wrap=True, selectable=True) for place in (CARD, LABELS, FILES)}
        self.save = button("Save", lambda: self._send(serve=False))
        self.serve = button("Save and serve it", lambda: self._send(serve=True), "primary")
        self.keep = button("Cancel", self.reject)
        self._serve = False
        self._build()
        self._tell()
        self.resize(620, 560)

    def _build(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(20, 18, 20, 16)
        layout.setSpacing(8)
        layout.addWidget(label(self.windowTitle(), "heading"))
        layout.addWidget(
            label("What goes in, and the steps before and after it: docs/cards.md lists them all.", "muted", wrap=True)
        )
        open_card = button("Open…", self._choose_card, name="Open a card.json")
        layout.addLayout(row(label("Card", "card"), None, open_card))
        layout.addWidget(self.text, 1)
        layout.addWidget(self.errors[CARD])
        open_names = button("Open…", self._choose_names, name="Open the names of the classes")
        self._section(layout, "Names of the classes", self._names, open_names, LABELS)
        open_file = button("Add…", self._choose_file, name="Add a file beside the model")
        self._section(layout, "Files beside the model", self._files, open_file, FILES)
        layout.addSpacing(6)
        layout.addLayout(row(self.keep, None, self.save, self.serve))
        served = bool(self._served())
        self.serve.setVisible(served)
        self.save.setProperty("kind", "" if served else "primary")
        (self.serve if served else self.save).setDefault(True)
        for wrong in self.errors.values():
            wrong.hide()

    def _section(self, layout: QVBoxLayout, title: str, text: QLabel, act: QWidget, place: str) -> None:
        layout.addSpacing(4)
        layout.addLayout(row(label(title, "card"), None, act))
        layout.addWidget(text)
        layout.addWidget(self.errors[place])

    def _served(self) -> list[Deployment]:
        return [
            deployment
            for deployment in self._session.station.deployments.values()
            if (deployment.model, deployment.version) == (self._model, self._version.version)
            and deployment.state not in {"stopped", "failed"}
        ]

    def _tell(self) -> None:
        here = [f"{file.path} ({format.size(file.size_bytes)})" for file in self._version.files[1:]]
        new = [f"{name} ({format.size(len(content))}), new" for name, content in self.files.items()]
        self._names.setText(cards.labels_words(self.names) or "Those in the model's file, if it has some.")
        self._files.setText("\n".join([*here, *new]) or "None. A tokenizer.json is what models of texts need.")

    # --- files -----------------------------------------------------------------------------------------

    def _choose(self, title: str, kinds: str, use: Any) -> None:
        dialog = QFileDialog(self, title, "", kinds)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.fileSelected.connect(use)
        dialog.open()

    def _choose_card(self) -> None:
        self._choose("Open a card", JSON_FILES, self.open_card)

    def _choose_names(self) -> None:
        self._choose("Open the names of the classes", NAMES, self.open_names)

    def _choose_file(self) -> None:
        self._choose("Add a file", JSON_FILES, self.add_file)

    def _read(self, path: str, place: str) -> bytes | None:
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            self._say(place, f"{Path(path).name} was not read: {error.strerror}.")
            return None
        self._say("", "")
        return content

    def open_card(self, path: str) -> None:
        content = self._read(path, CARD)
        if content is None:
            return
        try:
            card, self._task = cards.read_card(content.decode("utf-8-sig"))
        except ValueError as error:
            self._say(CARD, str(error))
            return
        if names := card.pop("labels", None):
            self.names = [str(name) for name in names]
        self.text.setPlainText(cards.text(card))
        self._tell()

    def open_names(self, path: str) -> None:
        content = self._read(path, LABELS)
        if content is None:
            return
        try:
            self.names = cards.read_labels(content.decode("utf-8-sig"))
        except ValueError as error:
            self._say(LABELS, str(error))
            return
        self._tell()

    def add_file(self, path: str) -> None:
        content = self._read(path, FILES)
        if content is not None:
            self.files[Path(path).name] = content
            self._tell()

    # --- sending ---------------------------------------------------------------------------------------

    def _send(self, *, serve: bool) -> None:
        self._say("", "")
        try:
            card, task = cards.read_card(self.text.toPlainText().strip() or "{}")
        except ValueError as error:
            self._say(CARD, str(error))
            return
        if self.names:
            card["labels"] = self.names
        self._serve = serve
        self._enable(False)
        self._session.describe(
            self._model, self._version.version, card, self.files, task or self._task, self._described, self._refused
        )

    def _described(self, _version: Any) -> None:
        if self._serve:
            for deployment in self._served():
                self._session.declare(deployment.route, deployment.spec)
        self.accept()

    def _refused(self, problem: Problem) -> None:
        self._enable(True)
        self._say(place_of(str(problem.details.get("field", ""))), f"{problem.message}\n{problem.hint}".strip())

    def _say(self, place: str, text: str) -> None:
        for name, wrong in self.errors.items():
            set_text(wrong, text if name == place else "")

    def _enable(self, enabled: bool) -> None:
        for made in (self.save, self.serve):
            made.setEnabled(enabled)

"""Ctrl+K: find a page, a model or a route, and do something with it."""

from collections.abc import Callable
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QObject, QStringListModel, Qt
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QAbstractItemView, QDialog, QLineEdit, QListView, QVBoxLayout, QWidget

from ui.widgets.basics import rule


@dataclass(frozen=True)
class Command:
    text: str
    run: Callable[[], object]
    words: str = ""
    """Further words it is found by."""


def matching(commands: list[Command], query: str, limit: int = 12) -> list[Command]:
    """Those that hold every word of the query, the ones that begin with it first. Pure."""
    words = query.casefold().split()
    found = [
        (not command.text.casefold().startswith(query.casefold().strip()), index, command)
        for index, command in enumerate(commands)
        if all(word in f"{command.text} {command.words}".casefold() for word in words)
    ]
    return [command for _, _, command in sorted(found, key=lambda entry: entry[:2])][:limit]


class Palette(QDialog):
    """A line and a list; Enter runs, Escape closes."""

    def __init__(self, parent: QWidget, commands: list[Command]) -> None:
        super().__init__(parent, Qt.WindowType.Popup | Qt.WindowType.FramelessWindowHint)
        self.setObjectName("palette")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._all = commands
        self._shown: list[Command] = []
        self.line = QLineEdit()
        self.line.setObjectName("palette")
        self.line.setPlaceholderText("Search or run a command")
        self.line.setAccessibleName("Search or run a command")
        self.line.installEventFilter(self)
        self._model = QStringListModel(self)
        self.list = QListView()
        self.list.setObjectName("commands")
        self.list.setModel(self._model)
        self.list.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.list.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.list.setAccessibleName("Commands")
        self.list.clicked.connect(lambda _: self._run())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 4, 6, 6)
        layout.setSpacing(4)
        layout.addWidget(self.line)
        layout.addWidget(rule())
        layout.addWidget(self.list)
        self.line.textChanged.connect(self._filter)
        self.resize(min(560, parent.width() - 60), 400)
        self._filter("")

    def texts(self) -> list[str]:
        return [command.text for command in self._shown]

    def _filter(self, query: str) -> None:
        self._shown = matching(self._all, query)
        self._model.setStringList([command.text for command in self._shown])
        if self._shown:
            self.list.setCurrentIndex(self._model.index(0))

    def _run(self) -> None:
        row = self.list.currentIndex().row()
        self.close()
        if 0 <= row < len(self._shown):
            self._shown[row].run()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if watched is self.line and isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            key = event.key()
            if key in {Qt.Key.Key_Up, Qt.Key.Key_Down}:
                row = self.list.currentIndex().row() + (1 if key == Qt.Key.Key_Down else -1)
                self.list.setCurrentIndex(self._model.index(max(0, min(len(self._shown) - 1, row))))
                return True
            if key in {Qt.Key.Key_Return, Qt.Key.Key_Enter}:
                self._run()
                return True
        return super().eventFilter(watched, event)

"""A segmented control: one choice of a few, all in sight; of many, a list that folds out."""

from functools import partial

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QPushButton, QSizePolicy

from ui.widgets.dropdown import Dropdown

#: More choices than this, or more letters in them, become a list.
MOST_CHOICES, MOST_LETTERS = 6, 64


class Segmented(QFrame):
    """``chosen(key)`` when the user picks another one."""

    chosen = Signal(str)

    def __init__(self, name: str, choices: list[tuple[str, str]] | None = None) -> None:
        super().__init__()
        self.setObjectName("segments")
        self.setAccessibleName(name)
        self.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self._choices: list[tuple[str, str]] = []
        self._current = ""
        # Not a QButtonGroup: that takes the unchosen ones out of the order of the Tab key.
        self._buttons: dict[str, QPushButton] = {}
        self._list = Dropdown()
        self._list.setAccessibleName(name)
        self._list.setSizeAdjustPolicy(Dropdown.SizeAdjustPolicy.AdjustToContents)
        self._list.activated.connect(lambda index: self._choose(self._choices[index][0]))
        self._layout = QHBoxLayout(self)
        self._layout.setContentsMargins(1, 1, 1, 1)
        self._layout.setSpacing(0)
        self._layout.addWidget(self._list)
        self._fill(choices or [])
        if not choices:
            self.hide()

    def set_choices(self, choices: list[tuple[str, str]]) -> None:
        """(key, label) pairs; the current choice stays if it is still among them, else the first is taken."""
        if choices != self._choices:
            self._fill(choices)
            self.setVisible(bool(choices))

    def _fill(self, choices: list[tuple[str, str]]) -> None:
        for old in self._buttons.values():
            self._layout.removeWidget(old)
            old.hide()
            old.deleteLater()
        self._buttons, self._choices = {}, choices
        many = len(choices) > MOST_CHOICES or sum(len(text) for _, text in choices) > MOST_LETTERS
        self._list.clear()
        self._list.setVisible(many)
        # The list has a border of its own.
        self.setProperty("bare", many)
        self.style().unpolish(self)
        self.style().polish(self)
        if many:
            self._list.addItems([text for _, text in choices])
        else:
            for key, text in choices:
                self._add_button(key, text)
        keys = [key for key, _ in choices]
        self._current = self._current if self._current in keys else keys[0] if keys else ""
        self.set_current(self._current)

    def _add_button(self, key: str, text: str) -> None:
        first, last = key == self._choices[0][0], key == self._choices[-1][0]
        made = QPushButton(text)
        made.setCheckable(True)
        made.setCursor(Qt.CursorShape.PointingHandCursor)
        made.setAccessibleName(f"{self.accessibleName()}: {text}")
        made.setProperty("edge", "only" if first and last else "first" if first else "last" if last else "")
        made.clicked.connect(partial(self._choose, key))
        self._buttons[key] = made
        self._layout.addWidget(made)

    def current(self) -> str:
        return self._current

    def set_current(self, key: str) -> None:
        """Chooses without emitting; a key that is no choice is passed over."""
        keys = [known for known, _ in self._choices]
        if key not in keys:
            return
        self._current = key
        for name, made in self._buttons.items():
            made.setChecked(name == key)
        if self._list.count():
            self._list.setCurrentIndex(keys.index(key))

    def press(self, key: str) -> None:
        """As if the user had chosen it."""
        self._choose(key)

    def _choose(self, key: str, _checked: bool = False) -> None:
        self.set_current(key)
        self.chosen.emit(key)

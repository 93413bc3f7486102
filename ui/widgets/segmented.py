"""A segmented control: one choice of a few, all in sight."""

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QButtonGroup, QFrame, QHBoxLayout, QPushButton, QSizePolicy


class Segmented(QFrame):
    """``chosen(key)`` when the user picks another one."""

    chosen = Signal(str)

    def __init__(self, name: str, choices: list[tuple[str, str]] | None = None) -> None:
        super().__init__()
        self.setObjectName("segments")
        self.setAccessibleName(name)
        self.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self._group = QButtonGroup(self)
        self._keys: list[str] = []
        self._labels: list[str] = []
        self._layout = QHBoxLayout(self)
        self._layout.setContentsMargins(1, 1, 1, 1)
        self._layout.setSpacing(0)
        self._fill(choices or [])
        if not choices:
            self.hide()

    def set_choices(self, choices: list[tuple[str, str]]) -> None:
        """(key, label) pairs; the current choice stays if it is still among them, else the first is taken."""
        keys, labels = [key for key, _ in choices], [text for _, text in choices]
        if (keys, labels) != (self._keys, self._labels):
            self._fill(choices)
            self.setVisible(bool(choices))

    def _fill(self, choices: list[tuple[str, str]]) -> None:
        keys, labels = [key for key, _ in choices], [text for _, text in choices]
        current = self.current()
        for old in self._group.buttons():
            self._group.removeButton(old)
            self._layout.removeWidget(old)
            old.hide()
            old.deleteLater()
        self._keys, self._labels = keys, labels
        for index, (key, text) in enumerate(choices):
            made = QPushButton(text)
            made.setCheckable(True)
            made.setCursor(Qt.CursorShape.PointingHandCursor)
            made.setAccessibleName(f"{self.accessibleName()}: {text}")
            last = index == len(choices) - 1
            made.setProperty("edge", "only" if last and not index else "first" if not index else "last" if last else "")
            made.clicked.connect(lambda _=False, key=key: self.chosen.emit(key))
            self._group.addButton(made, index)
            self._layout.addWidget(made)
        if keys:
            self.set_current(current if current in keys else keys[0])

    def current(self) -> str:
        index = self._group.checkedId()
        return self._keys[index] if 0 <= index < len(self._keys) else ""

    def set_current(self, key: str) -> None:
        """Chooses without emitting."""
        if key in self._keys:
            self._group.button(self._keys.index(key)).setChecked(True)

    def press(self, key: str) -> None:
        """As if the user had clicked."""
        self._group.button(self._keys.index(key)).click()

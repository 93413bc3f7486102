"""Name and value pairs, aligned."""

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QLabel, QWidget

from ui.widgets.basics import label


class Facts(QWidget):
    """`set_facts` keeps the widgets it has, so that a live value does not flicker."""

    def __init__(self) -> None:
        super().__init__()
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(16)
        self._grid.setVerticalSpacing(6)
        self._grid.setColumnStretch(1, 1)
        self._rows: list[tuple[QLabel, QLabel]] = []

    def set_facts(self, facts: list[tuple[str, str]]) -> None:
        facts = [(name, value) for name, value in facts if value]
        while len(self._rows) < len(facts):
            name, value = label("", "muted"), label("", wrap=True, selectable=True)
            index = len(self._rows)
            self._grid.addWidget(name, index, 0, Qt.AlignmentFlag.AlignTop)
            self._grid.addWidget(value, index, 1, Qt.AlignmentFlag.AlignTop)
            self._rows.append((name, value))
        for index, (name, value) in enumerate(self._rows):
            shown = index < len(facts)
            for widget, text in zip((name, value), facts[index] if shown else ("", ""), strict=True):
                if widget.text() != text:
                    widget.setText(text)
                widget.setVisible(shown)

    def texts(self) -> dict[str, str]:
        return {name.text(): value.text() for name, value in self._rows if not name.isHidden()}

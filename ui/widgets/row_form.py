"""A row of a table as a small form: a field for each column."""

import json
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QGridLayout, QLineEdit, QVBoxLayout, QWidget

from ui.widgets.basics import label
from ui.widgets.dropdown import Dropdown
from ui.widgets.item_input import ItemInput, TextBox

#: Columns side by side where the form is at least this wide.
TWO_FROM_PX = 420


class Field(QWidget):
    """One column: a list of its categories, or a line. What may be left out says so."""

    def __init__(self, column: dict[str, Any], unit: str = "") -> None:
        super().__init__()
        self.name = str(column.get("name", ""))
        self.number = column.get("type", "number") == "number"
        self.categories: list[Any] = list(column.get("categories", ()))
        missing = column.get("missing")
        self.optional = missing is not None
        self.line = QLineEdit()
        self.list = Dropdown()
        self.list.addItems([str(category) for category in self.categories])
        shown: QWidget = self.list if self.categories else self.line
        self.line.setFixedHeight(32)
        stands_in = f"{missing} if left empty" if missing not in (None, "") else "may stay empty"
        self.line.setPlaceholderText(stands_in if self.optional else "a number" if self.number else "")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(label(f"{self.name}, {unit}" if unit else self.name, "caption"))
        layout.addWidget(shown)
        for widget in (self.line, self.list):
            widget.setAccessibleName(self.name)

    def value(self) -> Any:
        """`None`: left out. Raises `ValueError`."""
        if self.categories:
            return self.categories[self.list.currentIndex()]
        text = self.line.text().strip()
        if not text:
            if self.optional:
                return None
            raise ValueError(f"{self.name} is missing.")
        if not self.number:
            return text
        try:
            return float(text.replace(",", ".")) if not text.lstrip("+-").isdigit() else int(text)
        except ValueError:
            raise ValueError(f"{self.name} takes a number, not {text}.") from None

    def clear(self) -> None:
        self.line.clear()
        self.list.setCurrentIndex(0)


class RowForm(ItemInput):
    """``columns`` as the card has them; without any, a field for JSON."""

    hint = "Enter asks"

    def __init__(self, columns: list[dict[str, Any]], units: dict[str, str]) -> None:
        super().__init__()
        self.fields = [Field(column, units.get(str(column.get("name", "")), "")) for column in columns]
        self.json = TextBox("Row", '{"column": 1.5} or [1.5, 2]', 130)
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(14)
        self._grid.setVerticalSpacing(10)
        self._across = 0
        if not self.fields:
            self._grid.addWidget(self.json)
        self.json.textChanged.connect(self.changed)
        self.json.entered.connect(self.entered)
        for field in self.fields:
            field.line.textChanged.connect(lambda _: self.changed.emit())
            field.line.returnPressed.connect(self.entered)
            field.list.activated.connect(lambda _: self.changed.emit())
        self._arrange(1)

    def _arrange(self, across: int) -> None:
        if across == self._across or not self.fields:
            return
        self._across = across
        for at, field in enumerate(self.fields):
            self._grid.addWidget(field, at // across, at % across, Qt.AlignmentFlag.AlignTop)
        for at in range(2):
            self._grid.setColumnStretch(at, 1 if at < across else 0)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange(2 if event.size().width() >= TWO_FROM_PX else 1)

    def row(self) -> Any:
        """Raises `ValueError` that names the column."""
        if not self.fields:
            try:
                return json.loads(self.json.toPlainText())
            except json.JSONDecodeError as error:
                raise ValueError(f"The row is not JSON: {error.msg}.") from None
        found = {field.name: field.value() for field in self.fields}
        return {name: value for name, value in found.items() if value is not None}

    def item(self) -> bytes:
        return json.dumps(self.row(), ensure_ascii=False).encode()

    def sample(self) -> Any:
        try:
            return {"row": self.row()}
        except ValueError:
            return {"row": {field.name: 0 for field in self.fields}}

    def is_empty(self) -> bool:
        if not self.fields:
            return not self.json.toPlainText().strip()
        return not any(field.line.text() for field in self.fields)

    def clear(self) -> None:
        self.json.clear()
        for field in self.fields:
            field.clear()

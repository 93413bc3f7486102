"""A big number with its unit and where it has been."""

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout

from ui.widgets.basics import column, label
from ui.widgets.card import Card
from ui.widgets.sparkline import Sparkline


class NumberCard(Card):
    def __init__(self, title: str, unit: str = "") -> None:
        super().__init__(margins=(16, 14, 16, 14))
        self._title = title
        self._number = label("–", "number")
        self._unit = label(unit, "unit")
        self.spark = Sparkline()
        figures = QHBoxLayout()
        figures.setSpacing(4)
        figures.addWidget(self._number, 0, Qt.AlignmentFlag.AlignBottom)
        figures.addWidget(self._unit, 0, Qt.AlignmentFlag.AlignBottom)
        figures.addStretch(1)
        self._unit.setContentsMargins(0, 0, 0, 4)
        texts = column(label(title, "caption"), spacing=2)
        texts.addLayout(figures)
        line = QHBoxLayout()
        line.setSpacing(12)
        line.addLayout(texts, 3)
        line.addWidget(self.spark, 4, Qt.AlignmentFlag.AlignBottom)
        self.add(line)

    def set_number(self, text: str, unit: str) -> None:
        self._number.setText(text)
        self._unit.setText(unit)
        self._unit.setVisible(bool(unit))
        self.setAccessibleName(f"{self._title}: {text} {unit}")

"""A card: a panel with a title, something on the right of it, and content under it."""

from PySide6.QtWidgets import QFrame, QLayout, QSizePolicy, QVBoxLayout, QWidget

from ui.widgets.basics import label, row


class Card(QFrame):
    """`body` takes the content; ``chip`` follows the title, ``trailing`` stands at the right end of its line."""

    def __init__(
        self, title: str = "", trailing: QWidget | None = None, *, chip: QWidget | None = None,
        margins: tuple[int, int, int, int] = (16, 14, 16, 14),
    ) -> None:  # fmt: skip
        super().__init__()
        self.setObjectName("card")
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
        self.body = QVBoxLayout(self)
        self.body.setContentsMargins(*margins)
        self.body.setSpacing(10)
        self.title = label(title, "card")
        if title or trailing is not None:
            line = row(self.title, chip) if chip is not None else row(self.title)
            fills = trailing is not None and trailing.sizePolicy().horizontalPolicy() == QSizePolicy.Policy.Expanding
            if not fills:
                line.addStretch(1)
            if trailing is not None:
                line.addWidget(trailing, 1 if fills else 0)
            self.body.addLayout(line)

    def add(self, item: QWidget | QLayout, stretch: int = 0) -> None:
        if isinstance(item, QWidget):
            self.body.addWidget(item, stretch)
        else:
            self.body.addLayout(item, stretch)

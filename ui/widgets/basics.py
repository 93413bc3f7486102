"""Labels, buttons, rules and rows: the small pieces every page is made of."""

from collections.abc import Callable
from typing import Literal

from PySide6.QtCore import QSize, Qt
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

Role = Literal[
    "",
    "title",
    "heading",
    "card",
    "strong",
    "muted",
    "caption",
    "number",
    "unit",
    "good",
    "watch",
    "wrong",
    "chip",
    "key",
    "code",
]
ButtonKind = Literal["", "primary", "danger", "link"]


class WrapLabel(QLabel):
    """A wrapped label whose least height is one line: Qt's own asks for the height it would need when narrowest,
    which makes every page scroll. Layouts still give it the height it needs at its width."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.setWordWrap(True)
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    def minimumSizeHint(self) -> QSize:
        return QSize(40, self.fontMetrics().lineSpacing())


def label(text: str = "", role: Role = "", *, wrap: bool = False, selectable: bool = False) -> QLabel:
    made = WrapLabel(text) if wrap else QLabel(text)
    made.setProperty("role", role)
    made.setTextFormat(Qt.TextFormat.PlainText)
    if selectable:
        made.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
    return made


def set_role(widget: QWidget, role: Role) -> None:
    """Changes how a label looks."""
    if widget.property("role") != role:
        widget.setProperty("role", role)
        widget.style().unpolish(widget)
        widget.style().polish(widget)


def button(
    text: str, clicked: Callable[[], object] | None = None, kind: ButtonKind = "", *, name: str = ""
) -> QPushButton:
    """``name`` is what a screen reader says where ``text`` alone would not do."""
    made = QPushButton(text)
    made.setProperty("kind", kind)
    made.setCursor(Qt.CursorShape.PointingHandCursor)
    made.setAccessibleName(name or text)
    made.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
    if clicked is not None:
        made.clicked.connect(lambda _checked: clicked())
    return made


def rule() -> QFrame:
    line = QFrame()
    line.setObjectName("rule")
    return line


def row(*items: QWidget | None, spacing: int = 8, margins: tuple[int, int, int, int] = (0, 0, 0, 0)) -> QHBoxLayout:
    """Widgets side by side; `None` is the stretch between left and right."""
    layout = QHBoxLayout()
    layout.setSpacing(spacing)
    layout.setContentsMargins(*margins)
    for item in items:
        if item is None:
            layout.addStretch(1)
        else:
            layout.addWidget(item)
    return layout


def column(*items: QWidget | None, spacing: int = 8) -> QVBoxLayout:
    layout = QVBoxLayout()
    layout.setSpacing(spacing)
    layout.setContentsMargins(0, 0, 0, 0)
    for item in items:
        if item is None:
            layout.addStretch(1)
        else:
            layout.addWidget(item)
    return layout


def set_text(target: QLabel, text: str) -> None:
    """Sets the text and hides the label where there is none."""
    if target.text() != text:
        target.setText(text)
    target.setVisible(bool(text))

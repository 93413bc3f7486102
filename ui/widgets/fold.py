"""Text that can be folded away: dimmed, beside a line, under a link that says what it is."""

from PySide6.QtWidgets import QFrame, QVBoxLayout, QWidget

from ui.widgets.basics import button, label, row


class Fold(QWidget):
    """Open at first. `close_by_itself` folds it, unless the user has decided that by hand. Hidden without a text."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what
        self._by_hand = False
        self.link = button("", self._toggle, "link")
        self._text = label("", "muted", wrap=True, selectable=True)
        self._aside = QFrame()
        self._aside.setObjectName("aside")
        inner = QVBoxLayout(self._aside)
        inner.setContentsMargins(10, 0, 0, 0)
        inner.addWidget(self._text)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 4)
        layout.setSpacing(2)
        layout.addLayout(row(self.link, None))
        layout.addWidget(self._aside)
        self._show(True)
        self.hide()

    def set_text(self, text: str) -> None:
        if self._text.text() != text:
            self._text.setText(text)
        self.setVisible(bool(text))

    def text(self) -> str:
        return self._text.text()

    def is_open(self) -> bool:
        return not self._aside.isHidden()

    def close_by_itself(self) -> None:
        if not self._by_hand and self.is_open():
            self._show(False)

    def _toggle(self) -> None:
        self._by_hand = True
        self._show(not self.is_open())

    def _show(self, opened: bool) -> None:
        self._aside.setVisible(opened)
        self.link.setText(f"Hide {self._what}" if opened else f"Show {self._what}")
        self.link.setAccessibleName(self.link.text())

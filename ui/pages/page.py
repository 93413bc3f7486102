"""What all pages share: the title, the sentence, the actions on the right, the notice, scrolling."""

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QFrame, QLayout, QScrollArea, QVBoxLayout, QWidget

from app.schema.manage import Problem
from ui.session import Session
from ui.widgets.basics import column, label, row
from ui.widgets.notice import Notice

MARGIN = 28


class Page(QScrollArea):
    """Subclasses fill `body` once and say in `refresh` what the stores hold now; `refresh` is called when the page
    is shown and, while it is, shortly after anything changed."""

    name = ""
    title = ""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.setObjectName("page")
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setAccessibleName(self.title)
        self._inner = QWidget()
        self._inner.setObjectName("page")
        self.setWidget(self._inner)
        self._sentence = label("", "muted", wrap=True)
        self._actions = row(None, spacing=8)
        self._header = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._header.setSpacing(12)
        self._header.addLayout(column(label(self.title, "title"), self._sentence, spacing=2), 1)
        side = QVBoxLayout()
        side.addLayout(self._actions)
        side.addStretch(1)
        self._header.addLayout(side)
        self.notice = Notice(dismissible=True)
        self.body = QVBoxLayout(self._inner)
        self.body.setContentsMargins(MARGIN, 24, MARGIN, MARGIN)
        self.body.setSpacing(16)
        self.body.addLayout(self._header)
        self.body.addWidget(self.notice)

    def act(self, *items: QWidget) -> None:
        """Puts controls at the right of the title."""
        for item in items:
            self._actions.insertWidget(self._actions.count() - 1, item)

    def add(self, item: QWidget | QLayout, stretch: int = 0) -> None:
        if isinstance(item, QWidget):
            self.body.addWidget(item, stretch)
        else:
            self.body.addLayout(item, stretch)

    def say(self, sentence: str) -> None:
        if self._sentence.text() != sentence:
            self._sentence.setText(sentence)

    def sentence(self) -> str:
        return self._sentence.text()

    def refresh(self) -> None:
        raise NotImplementedError

    def restyle(self) -> None:
        """The theme has changed: what is kept as pixels is made again."""

    def failed(self, does: str) -> "_Report":
        """A callback that shows a problem, with what it means: ``failed("digits was not started")``."""
        return _Report(self.notice, does)

    def resizeEvent(self, event: QResizeEvent) -> None:
        narrow = event.size().width() < 40 + self._actions.sizeHint().width() + 2 * MARGIN + 300
        directions = QBoxLayout.Direction
        self._header.setDirection(directions.TopToBottom if narrow else directions.LeftToRight)
        super().resizeEvent(event)


class _Report:
    def __init__(self, notice: Notice, does: str) -> None:
        self._notice, self._does = notice, does

    def __call__(self, problem: Problem) -> None:
        self._notice.show_problem(problem, self._does)

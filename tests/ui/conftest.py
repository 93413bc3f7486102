"""A window on a fake daemon, without a display."""

import gc
import os
from collections.abc import Callable, Iterator

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtWidgets import QAbstractScrollArea, QApplication, QWidget
from pytestqt.qtbot import QtBot

from tests.support.fake_daemon import FakeDaemon
from ui.session import Session
from ui.theme import Theme
from ui.window import Window


@pytest.fixture(autouse=True)
def collected_here() -> Iterator[None]:
    """The fake daemon's threads are of this process: a collection of garbage in one of them would destroy Qt objects
    there, against the window's thread, and now and then both wait for the other for ever."""
    gc.disable()
    yield
    gc.collect()
    gc.enable()


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    fake = FakeDaemon()
    yield fake
    fake.stop()


@pytest.fixture
def theme(qapp: QApplication) -> Theme:
    return Theme(qapp, "dark")


@pytest.fixture
def open_window(qtbot: QtBot, theme: Theme) -> Iterator[Callable[[str], Window]]:
    """Opens windows on a URL and closes them in the end."""
    opened: list[Window] = []

    def make(url: str) -> Window:
        window = Window(Session(url), theme)
        opened.append(window)
        window.resize(1440, 900)
        window.show()
        window.session.start()
        return window

    yield make
    for window in opened:
        window.close()
        window.deleteLater()


@pytest.fixture
def window(qtbot: QtBot, daemon: FakeDaemon, open_window: Callable[[str], Window]) -> Window:
    """A window that has the fake daemon's snapshot, catalogue and history."""
    made = open_window(daemon.url)
    qtbot.waitUntil(lambda: bool(made.session.catalog.entries) and len(made.session.series.of("route:digits")) > 100)
    return made


def _overlaps(parent: QWidget) -> list[str]:
    """Siblings in sight that cover each other, and widgets that stick out of their parent."""
    found = []
    children = [
        child for child in parent.children()
        if isinstance(child, QWidget) and child.isVisible() and not child.isWindow() and child.objectName() != "veil"
        and not child.objectName().startswith("qt_scrollarea")
    ]  # fmt: skip
    for index, first in enumerate(children):
        if not parent.rect().adjusted(-1, -1, 1, 1).contains(first.geometry()):
            found.append(f"{first} sticks out of {parent}: {first.geometry()} in {parent.rect()}")
        for second in children[index + 1 :]:
            if first.geometry().intersects(second.geometry()):
                found.append(f"{first} and {second} in {parent}")
        if not isinstance(first, QAbstractScrollArea):
            found += _overlaps(first)
    return found


def _untidy(window: Window) -> list[str]:
    inner = window.page().widget()
    found = _overlaps(window.centralWidget()) + _overlaps(inner)
    if inner.width() > window.page().viewport().width():
        found.append("the page would have to scroll sideways")
    return found


@pytest.fixture
def untidy() -> Callable[[Window], list[str]]:
    """What lies wrong on the page in sight."""
    return _untidy

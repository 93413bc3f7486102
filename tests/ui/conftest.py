"""A window on a fake daemon, without a display."""

import gc
import os
from collections.abc import Callable, Iterator

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtWidgets import QApplication
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

"""The window: rail, bar and pages, and what they have to do with each other."""

import time
from functools import partial
from typing import cast, get_args

from PySide6.QtCore import QPoint, QTimer
from PySide6.QtGui import QCloseEvent, QKeySequence, QResizeEvent, QShortcut
from PySide6.QtWidgets import QHBoxLayout, QMainWindow, QStackedWidget, QVBoxLayout, QWidget

from ui import format
from ui.commands import Command, Palette
from ui.pages.deployments import DeploymentsPage
from ui.pages.hardware import HardwarePage
from ui.pages.jobs import JobsPage
from ui.pages.models import ModelsPage
from ui.pages.monitor import MonitorPage
from ui.pages.overview import OverviewPage
from ui.pages.page import Page
from ui.pages.playground import PlaygroundPage
from ui.pages.settings import SettingsPage
from ui.session import Session
from ui.theme import Mode, Theme
from ui.widgets.empty import Empty
from ui.widgets.offline import OfflineBar, Veil
from ui.widgets.rail import Rail
from ui.widgets.top_bar import TopBar
from ui.words import is_active

FOLD_BELOW = 1100


class Window(QMainWindow):
    """Refreshes the page in sight at most twenty times a second, whatever the daemon sends."""

    def __init__(self, session: Session, theme: Theme) -> None:
        super().__init__()
        self.session, self.theme = session, theme
        self.setWindowTitle("Pilothouse")
        self.setMinimumSize(640, 480)
        self.rail, self.bar, self.offline = Rail(), TopBar(), OfflineBar()
        self.overview, self.models = OverviewPage(session), ModelsPage(session)
        self.deployments, self.monitor = DeploymentsPage(session), MonitorPage(session)
        self.playground, self.jobs = PlaygroundPage(session), JobsPage(session)
        self.hardware, self.settings = HardwarePage(session), SettingsPage(session)
        pages: list[Page] = [
            self.overview,
            self.models,
            self.deployments,
            self.monitor,
            self.playground,
            self.jobs,
            self.hardware,
            self.settings,
        ]
        self.pages = {page.name: page for page in pages}
        self._stack = QStackedWidget()
        for page in pages:
            self._stack.addWidget(page)
        self._build()
        self._connect()
        self.show_page("overview")

    def _build(self) -> None:
        right = QWidget()
        right.setObjectName("body")
        lines = QVBoxLayout(right)
        lines.setContentsMargins(0, 0, 0, 0)
        lines.setSpacing(0)
        for item in (self.bar, self.offline):
            lines.addWidget(item)
        lines.addWidget(self._stack, 1)
        whole = QWidget()
        parts = QHBoxLayout(whole)
        parts.setContentsMargins(0, 0, 0, 0)
        parts.setSpacing(0)
        parts.addWidget(self.rail)
        parts.addWidget(right, 1)
        self.setCentralWidget(whole)
        self._veil = Veil(self._stack)

    def _connect(self) -> None:
        session = self.session
        self._soon = QTimer(self, singleShot=True, interval=50)
        self._soon.timeout.connect(self.refresh)
        self._second = QTimer(self, interval=1000)
        self._second.timeout.connect(self._tick)
        self._second.start()
        for signal in (
            session.station.changed,
            session.station.replaced,
            session.series.changed,
            session.catalog.changed,
        ):
            signal.connect(self._changed)
        session.connection.changed.connect(self._tick)
        self.rail.chosen.connect(self.show_page)
        self.bar.searched.connect(self.open_palette)
        self.offline.retry.clicked.connect(session.stream.retry_now)
        self.theme.changed.connect(self._restyle)
        self.settings.theme_chosen.connect(self.set_theme)
        for page in (self.overview, self.deployments, self.playground):
            page.wanted_models.connect(lambda: self.show_page("models"))
        self.overview.wanted_route.connect(self.watch)
        self.models.wanted_try.connect(self.try_route)
        QShortcut(QKeySequence("Ctrl+K"), self, self.open_palette)
        for index, name in enumerate(self.pages):
            QShortcut(QKeySequence(f"Ctrl+{index + 1}"), self, partial(self.show_page, name))

    # --- what is shown ---------------------------------------------------------------------------------

    def page(self) -> Page:
        return cast(Page, self._stack.currentWidget())

    def show_page(self, name: str) -> None:
        self._stack.setCurrentWidget(self.pages[name])
        self.rail.set_current(name)
        self.refresh()

    def watch(self, route: str) -> None:
        self.show_page("monitor")
        self.monitor.watch(route)

    def try_route(self, route: str) -> None:
        self.show_page("playground")
        self.playground.try_route(route)

    def set_theme(self, mode: str) -> None:
        if mode in get_args(Mode):
            self.settings.theme.set_current(mode)
            self.theme.set_mode(cast(Mode, mode))

    def _changed(self, *_: object) -> None:
        if not self._soon.isActive():
            self._soon.start()

    def refresh(self) -> None:
        station = self.session.station
        self.page().refresh()
        self.bar.strip.set_hardware(station.hardware)
        failed = sum(deployment.state == "failed" for deployment in station.deployments.values())
        self.rail.items["deployments"].set_badge(failed, urgent=True)
        self.rail.items["jobs"].set_badge(sum(is_active(job) for job in station.jobs.values()))
        self._show_station()

    def _show_station(self) -> None:
        station, connection = self.session.station, self.session.connection
        host = f"{station.hardware.hostname} · this machine" if station.hardware else "this machine"
        address = self.session.client.url.partition("//")[2]
        up = ""
        if station.daemon is not None and (started := format.parse_time(station.daemon.started)):
            up = f"up {format.age(time.time() - started)}"
        mark = "steady" if connection.online else "off" if connection.online is None else "watch"
        self.rail.foot.set_station(mark, host, format.joined(address, up if connection.online else "away"))  # type: ignore[arg-type]

    def _tick(self) -> None:
        connection = self.session.connection
        away = connection.online is False
        if away:
            self.offline.show_state(connection.reason, connection.silent_s(), self.session.stream.retry_in_s())
        self.offline.setVisible(away)
        self._veil.setVisible(away)
        self._veil.raise_()
        self._show_station()

    def _restyle(self) -> None:
        for empty in self.findChildren(Empty):
            empty.restyle()
        self.refresh()
        self.update()

    # --- commands --------------------------------------------------------------------------------------

    def commands(self) -> list[Command]:
        """Everything that can be done now, by name."""
        session = self.session
        found = [Command(page.title, partial(self.show_page, name), "go to page") for name, page in self.pages.items()]
        for route, deployment in session.station.deployments.items():
            stopped = deployment.state in {"stopped", "failed"}
            switch = partial(self.deployments.set_stopped, deployment, not stopped)
            found += [
                Command(f"Watch {route}", partial(self.watch, route), "monitor"),
                Command(f"Try {route}", partial(self.try_route, route), "playground"),
                Command(f"{'Start' if stopped else 'Stop'} {route}", switch, "deployment"),
            ]
        for entry in session.catalog.entries:
            if entry.name not in session.station.models:
                found.append(
                    Command(f"Get {entry.name}", partial(self._get, entry.name), f"pull download {entry.title}")
                )
        for mode, word in (("dark", "Dark theme"), ("light", "Light theme"), ("system", "Theme as the system")):
            found.append(Command(word, partial(self.set_theme, mode), "appearance"))
        if session.connection.online is False:
            found.insert(0, Command("Retry the connection", session.stream.retry_now))
        return found

    def _get(self, name: str) -> None:
        self.show_page("models")
        self.models.view.set_current("catalogue")
        self.models.refresh()
        self.models.get(name)

    def open_palette(self) -> Palette:
        palette = Palette(self, self.commands())
        corner = self.bar.search.mapToGlobal(QPoint(0, 0))
        palette.move(corner)
        palette.show()
        palette.line.setFocus()
        return palette

    # --- Qt --------------------------------------------------------------------------------------------

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.rail.set_folded(event.size().width() < FOLD_BELOW)
        self._veil.resize(self._stack.size())

    def closeEvent(self, event: QCloseEvent) -> None:
        self.session.close()
        super().closeEvent(event)

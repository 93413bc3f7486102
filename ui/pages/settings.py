"""Settings: how the window looks, and the settings in force with where each came from."""

from typing import Any

import msgspec
from PySide6.QtCore import Signal

from app.schema.manage import Problem, Setting
from ui.pages.page import Page
from ui.session import Session
from ui.tables.base import RowsModel
from ui.tables.station import SETTINGS
from ui.widgets.basics import label, row
from ui.widgets.card import Card
from ui.widgets.facts import Facts
from ui.widgets.segmented import Segmented
from ui.widgets.table import Table


class SettingsPage(Page):
    name, title = "settings", "Settings"
    theme_chosen = Signal(str)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.theme = Segmented("Theme", [("system", "As the system"), ("dark", "Dark"), ("light", "Light")])
        self.theme.chosen.connect(self.theme_chosen)
        look = Card("Appearance")
        look.add(row(label("Theme", "muted"), self.theme, None, spacing=16))
        self.facts = Facts()
        daemon = Card("Daemon")
        daemon.add(self.facts)
        self.model = RowsModel(SETTINGS, lambda setting: setting.key)
        settings = Card(
            "Settings in force",
            label("change them in settings.toml or the environment", "caption"),
            margins=(16, 14, 16, 8),
        )
        settings.add(Table("Settings", self.model, max_rows=40, selectable=False))
        for card in (look, daemon, settings):
            self.add(card)
        self.body.addStretch(1)
        self._asked = 0

    def refresh(self) -> None:
        daemon = self.session.station.daemon
        if daemon is not None:
            self.facts.set_facts(
                [
                    ("Version", daemon.version), ("Address", daemon.url), ("Data", daemon.data_dir),
                    ("Process", str(daemon.pid)),
                ]
            )  # fmt: skip
            if self._asked != daemon.pid:
                self._asked = daemon.pid
                self.session.settings(self._show, self._no_answer)
        changed = sum(setting.source != "default" for setting in self.model.rows)
        self.say(
            f"{changed} of {len(self.model.rows)} differ from the default" if self.model.rows else "Asking the daemon…"
        )

    def _show(self, items: list[Any]) -> None:
        self.model.set_rows([msgspec.convert(item, Setting) for item in items])
        self.refresh()

    def _no_answer(self, problem: Problem) -> None:
        self._asked = 0
        self.notice.show_problem(problem, "The settings could not be read")

"""Playground: try a route by hand, and take the same call away as code."""

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QVBoxLayout, QWidget

from app.schema.manage import Deployment
from ui import format
from ui.pages.page import Page
from ui.pages.playground_chat import ChatPanel
from ui.pages.playground_tensor import TensorPanel
from ui.session import Session
from ui.widgets.empty import Empty
from ui.widgets.segmented import Segmented
from ui.words import DEPLOYMENT, engine_and_device, is_language

Panel = ChatPanel | TensorPanel


class PlaygroundPage(Page):
    name, title = "playground", "Playground"
    wanted_models = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.route = Segmented("Route")
        self.route.chosen.connect(lambda _: self.refresh())
        self.act(self.route)
        self.empty = Empty(
            "flask-conical", "Nothing to try yet", "Serve a model, then draw, type or chat with it here.",
            "Choose a model", self.wanted_models.emit,
        )  # fmt: skip
        self._holder = QWidget()
        self._stack = QVBoxLayout(self._holder)
        self._stack.setContentsMargins(0, 0, 0, 0)
        self._shown: Panel | None = None
        self._panels: dict[tuple[str, str, int], Panel] = {}
        self.add(self.empty)
        self.add(self._holder)
        self.body.addStretch(1)

    def try_route(self, route: str) -> None:
        self.refresh()
        self.route.set_current(route)
        self.refresh()

    def panel(self) -> Panel | None:
        """The one in sight."""
        return self._shown

    def refresh(self) -> None:
        station = self.session.station
        served = {
            route: found for route, found in station.deployments.items() if found.state not in {"stopped", "failed"}
        }
        self.route.set_choices([(route, route) for route in served])
        deployment = served.get(self.route.current())
        self.empty.setVisible(deployment is None and station.loaded)
        self._holder.setVisible(deployment is not None)
        self._drop(set(station.deployments))
        if deployment is None:
            self.say("No route is serving" if station.loaded else "Asking the daemon…")
            return
        panel = self._panel_of(deployment)
        if self._shown is not panel:
            if self._shown is not None:
                self._shown.hide()
            panel.show()
            self._shown = panel
        panel.show_deployment(deployment)
        sample = station.samples.get(deployment.route)
        speed = f"p50 {format.milliseconds(sample.p50_ms)}" if sample and sample.p50_ms is not None else ""
        state = "" if deployment.state == "ready" else DEPLOYMENT[deployment.state][1].lower()
        self.say(
            format.joined(f"{deployment.route} v{deployment.version}", engine_and_device(deployment), speed, state)
        )

    def _panel_of(self, deployment: Deployment) -> Panel:
        """One panel for a route, model and version, so that what was drawn or said stays when going to and fro.
        While the signature is not known yet the panel is made anew when it is."""
        key = (deployment.route, f"{deployment.model} {len(deployment.inputs)}", deployment.version)
        if key not in self._panels:
            made: Panel = ChatPanel(self.session) if is_language(deployment) else TensorPanel(self.session, deployment)
            self._panels[key] = made
            self._stack.addWidget(made)
        return self._panels[key]

    def _drop(self, routes: set[str]) -> None:
        for key in [key for key in self._panels if key[0] not in routes]:
            panel = self._panels.pop(key)
            self._stack.removeWidget(panel)
            self._shown = None if self._shown is panel else self._shown
            panel.hide()
            panel.deleteLater()

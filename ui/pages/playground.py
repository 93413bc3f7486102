"""Playground: try a route by hand, and take the same call away as code."""

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QVBoxLayout, QWidget

from app.schema.manage import Deployment
from ui import format, items
from ui.pages.page import Page
from ui.pages.playground_chat import ChatPanel
from ui.pages.playground_items import ItemPanel
from ui.pages.playground_tensor import TensorPanel
from ui.session import Session
from ui.tensors import image_input
from ui.widgets.drawing_pad import CELLS
from ui.widgets.empty import Empty
from ui.widgets.segmented import Segmented
from ui.words import DEPLOYMENT, engine_and_device, is_language, title

Panel = ChatPanel | TensorPanel | ItemPanel


def ways(deployment: Deployment) -> list[tuple[str, str]]:
    """(key, words) of the ways to ask a tensor model, the one to begin with first; empty where there is no choice."""
    kind = items.kind(deployment.card)
    if not kind or is_language(deployment):
        return []
    picture = len(deployment.inputs) == 1 and image_input(deployment.inputs[0]) is not None
    drawn = picture and max(deployment.inputs[0].shape[1:]) <= CELLS
    found = [(kind, items.KINDS[kind]), ("tensors", "Draw" if drawn else "Tensors")]
    return found[::-1] if drawn else found


class PlaygroundPage(Page):
    name, title = "playground", "Playground"
    wanted_models = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.route = Segmented("Route")
        self.route.chosen.connect(lambda _: self.refresh())
        self.way = Segmented("What to ask with")
        self.way.chosen.connect(self._choose_way)
        self._ways: dict[str, str] = {}
        self.act(self.way, self.route)
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
        self.add(self._holder, 1)
        self._rest = QWidget()
        self.add(self._rest, 1)

    def _choose_way(self, way: str) -> None:
        self._ways[self.route.current()] = way
        self.refresh()

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
        self._rest.setVisible(deployment is None)
        self._drop(set(station.deployments))
        self.way.set_choices(ways(deployment) if deployment is not None else [])
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
        self.say(format.joined(title(deployment), engine_and_device(deployment), speed, state))

    def _panel_of(self, deployment: Deployment) -> Panel:
        """One panel for a route, model and version, so that what was drawn or said stays when going to and fro.
        While the signature is not known yet the panel is made anew when it is."""
        way = self._ways.get(deployment.route, "")
        choices = [name for name, _ in ways(deployment)]
        way = way if way in choices else choices[0] if choices else "tensors"
        self.way.set_current(way)
        key = (deployment.route, f"{deployment.model} {len(deployment.inputs)} {way}", deployment.version)
        if key not in self._panels:
            made: Panel
            if is_language(deployment):
                made = ChatPanel(self.session)
            elif way == "tensors":
                made = TensorPanel(self.session, deployment)
            else:
                made = ItemPanel(self.session, deployment)
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

"""Deployments: what should be served, what is, by which engine and why."""

from PySide6.QtCore import Signal

from app.schema.manage import Deployment, DeploymentSpec
from ui import format
from ui.pages.deployment_detail import DeploymentDetail
from ui.pages.page import Page
from ui.session import Session
from ui.tables.base import RowsModel
from ui.tables.deployments import DEPLOYMENTS, deployment_rows, route_key
from ui.widgets.card import Card
from ui.widgets.confirm import Confirm
from ui.widgets.empty import Empty
from ui.widgets.split import Split
from ui.widgets.table import Table
from ui.words import DEPLOYMENT


def state_sentence(deployments: list[Deployment]) -> str:
    """``4 routes serving · 1 failed``"""
    ready = sum(deployment.state == "ready" for deployment in deployments)
    counts = [f"{format.plural(ready, 'route')} serving" if ready else "Nothing is serving"]
    for state in ("starting", "draining", "idle", "stopped", "failed"):
        number = sum(deployment.state == state for deployment in deployments)
        counts.append(f"{number} {DEPLOYMENT[state][1].lower()}" if number else "")
    return format.joined(*counts)


class DeploymentsPage(Page):
    name, title = "deployments", "Deployments"
    wanted_models = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.model = RowsModel(DEPLOYMENTS, route_key)
        self.table = Table("Deployments", self.model)
        self.table.picked.connect(lambda _: self.refresh())
        self.empty = Empty(
            "rocket", "Nothing is deployed", "A deployment keeps a model loaded and answers requests under its route.",
            "Choose a model", self.wanted_models.emit,
        )  # fmt: skip
        listing = Card(margins=(6, 6, 6, 6))
        listing.add(self.table)
        listing.add(self.empty)
        self.detail = DeploymentDetail(session)
        self.detail.switched.connect(self.set_stopped)
        self.detail.removed.connect(self.remove)
        self.detail.declared.connect(self.declare)
        self.detail.forgot.connect(lambda route: session.forget_answers(route, self.failed("Nothing was forgotten")))
        self.detail.wanted_runtime.connect(lambda name: session.install(name, self.failed(f"{name} was not installed")))
        self.detail.wanted_route.connect(self.table.select)
        self.detail.opened.connect(lambda form: self.ensureWidgetVisible(form, 0, 80))
        self.add(Split(listing, self.detail, (8, 5)))
        self.body.addStretch(1)

    def refresh(self) -> None:
        station = self.session.station
        rows = deployment_rows(station)
        if station.loaded:
            self.model.set_rows(rows)
        routes = [row.deployment.route for row in rows]
        if routes and self.table.selected() not in routes:
            self.table.select(routes[0])
        self.table.setVisible(bool(rows) or self.model.loading)
        self.empty.setVisible(not rows and not self.model.loading)
        self.detail.show_row(next((row for row in rows if row.deployment.route == self.table.selected()), None))
        self.say(state_sentence([row.deployment for row in rows]) if station.loaded else "Asking the daemon…")

    def set_stopped(self, deployment: Deployment, stopped: bool) -> None:
        does = f"{deployment.route} was not {'stopped' if stopped else 'started'}"
        self.session.set_stopped(deployment, stopped, self.failed(does))

    def declare(self, route: str, spec: DeploymentSpec) -> None:
        """Settings of the form: the daemon's objections are shown there."""
        self.session.declare(route, spec, None, self.detail.refuse)

    def remove(self, route: str) -> None:
        def act() -> None:
            self.session.undeploy(route, self.failed(f"{route} was not removed"))

        text = "Its route stops answering and its settings are forgotten. The model stays on this machine."
        Confirm(self, f"Remove the deployment {route}?", text, "Remove", act).open()

"""Deployments: what should be served, what is, by which engine and why."""

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QWidget

from app.schema.manage import Deployment, TensorMetadata
from ui import format
from ui.pages.page import Page
from ui.session import Session
from ui.tables.base import RowsModel
from ui.tables.deployments import CANDIDATES, DEPLOYMENTS, REPLICAS, DeploymentRow, deployment_rows, route_key
from ui.tables.station import progress_line
from ui.tensors import shape_text
from ui.widgets.basics import button, label, row, rule, set_text
from ui.widgets.card import Card
from ui.widgets.confirm import Confirm
from ui.widgets.empty import Empty
from ui.widgets.facts import Facts
from ui.widgets.mark import StateMark
from ui.widgets.meter import Meter
from ui.widgets.notice import Notice
from ui.widgets.split import Split
from ui.widgets.table import Table
from ui.words import DEPLOYMENT, abilities, chat_template, context, engine_and_device, missing_runtime


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
        self.detail = DeploymentDetail(self)
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

    def remove(self, route: str) -> None:
        def act() -> None:
            self.session.undeploy(route, self.failed(f"{route} was not removed"))

        text = "Its route stops answering and its settings are forgotten. The model stays on this machine."
        Confirm(self, f"Remove the deployment {route}?", text, "Remove", act).open()


class DeploymentDetail(Card):
    def __init__(self, page: DeploymentsPage) -> None:
        super().__init__()
        self._page = page
        self._deployment: Deployment | None = None
        self._name = label("", "heading", selectable=True)
        self._task = label("", "chip")
        self.state = StateMark()
        self.problem = Notice()
        self.install = button("", self._install, "primary")
        self._meter, self._progress = Meter("Installation"), label("", "caption", wrap=True)
        self._why = label("Why this engine", "card")
        self.reason = label("", "muted", wrap=True, selectable=True)
        self.candidates = RowsModel(CANDIDATES, lambda row: f"{row.engine} {row.device} {row.runtime}")
        self._candidates = Table("Engines considered", self.candidates, row_height=32, max_rows=5, selectable=False)
        self._replicas_title = label("Replicas", "card")
        self.replicas = RowsModel(REPLICAS, lambda row: row.id)
        self._replicas = Table("Replicas", self.replicas, row_height=32, max_rows=5, selectable=False)
        self._facts_title = label("Signature and settings", "card")
        self.facts = Facts()
        self.notes = label("", "muted", wrap=True, selectable=True)
        self.remove = button("Remove", self._remove, "danger")
        self.switch = button("Stop", self._switch)
        self.add(row(self._name, self._task, None, self.state, spacing=10))
        self.replica_errors = label("", "wrong", wrap=True, selectable=True)
        parts: list[QWidget] = [
            self.problem, self._meter, self._progress, self._why, self.reason, self._candidates, self._replicas_title,
            self._replicas, self.replica_errors, self._facts_title, self.facts, self.notes, rule(),
        ]  # fmt: skip
        for part in parts:
            self.add(part)
        self.add(row(self.remove, None, self.switch, self.install))

    def show_row(self, shown: DeploymentRow | None) -> None:
        self.setVisible(shown is not None)
        if shown is None:
            self._deployment = None
            return
        deployment = self._deployment = shown.deployment
        self._name.setText(deployment.route)
        set_text(self._task, deployment.task.replace("-", " "))
        self.state.set_state(*DEPLOYMENT[deployment.state])
        if deployment.error is not None:
            self.problem.show_problem(deployment.error)
        else:
            self.problem.hide()
        decision = deployment.decision
        self._why.setVisible(decision is not None)
        set_text(self.reason, decision.reason if decision else "")
        self.candidates.set_rows(decision.candidates if decision else [])
        self._candidates.setVisible(bool(decision and decision.candidates))
        self.replicas.set_rows(deployment.replicas)
        for widget in (self._replicas_title, self._replicas):
            widget.setVisible(bool(deployment.replicas))
        errors = [
            f"{replica.id}: {replica.error.message} {replica.error.hint}".strip()
            for replica in deployment.replicas
            if replica.error
        ]
        set_text(self.replica_errors, "\n".join(errors))
        self.facts.set_facts(_facts(deployment))
        set_text(self.notes, "\n".join(deployment.notes))
        self.switch.setText("Start" if deployment.state in {"stopped", "failed"} else "Stop")
        self.switch.setAccessibleName(f"{self.switch.text()} {deployment.route}")
        self._show_runtime(deployment)

    def _show_runtime(self, deployment: Deployment) -> None:
        station = self._page.session.station
        runtime = missing_runtime(deployment, station.runtimes)
        installing = runtime is not None and runtime.state == "installing"
        job = station.jobs.get(runtime.job) if runtime is not None and runtime.job else None
        self.install.setVisible(runtime is not None and not installing)
        self._meter.setVisible(installing and job is not None)
        self._progress.setVisible(installing)
        if runtime is not None:
            self.install.setText(f"Install {runtime.name}")
            self.install.setAccessibleName(self.install.text())
            self._meter.set_value(job.progress if job else 0)
            doing = progress_line(job) if job else ""
            self._progress.setText(format.joined(f"Installing {runtime.name}", doing, "it starts by itself afterwards"))

    def _install(self) -> None:
        if self._deployment is not None:
            runtime = missing_runtime(self._deployment, self._page.session.station.runtimes)
            if runtime is not None:
                self._page.session.install(runtime.name, self._page.failed(f"{runtime.name} was not installed"))

    def _remove(self) -> None:
        if self._deployment is not None:
            self._page.remove(self._deployment.route)

    def _switch(self) -> None:
        if self._deployment is not None:
            self._page.set_stopped(self._deployment, self.switch.text() == "Stop")


def _tensors(tensors: list[TensorMetadata]) -> str:
    return "\n".join(f"{meta.name}  {shape_text(meta)}" for meta in tensors)


def _facts(deployment: Deployment) -> list[tuple[str, str]]:
    settings = ", ".join(f"{key} {value}" for key, value in deployment.spec.settings.items())
    return [
        ("Model", f"{deployment.model} v{deployment.version}"),
        (
            "Engine",
            format.joined(engine_and_device(deployment), deployment.engine_version or "", deployment.precision or ""),
        ),
        ("Runtime", deployment.runtime or ""),
        ("Inputs", _tensors(deployment.inputs)),
        ("Outputs", _tensors(deployment.outputs)),
        ("Labels", format.plural(len(deployment.labels), "class", "classes") if deployment.labels else ""),
        ("Can do", abilities(deployment)),
        ("Context", context(deployment)),
        ("At once", format.plural(deployment.sequences, "sequence") if deployment.sequences else ""),
        ("Chat template", chat_template(deployment)),
        ("Adapters", ", ".join(f"{deployment.route}:{name}" for name in deployment.adapters)),
        ("Sees through", deployment.spec.projector or ""),
        ("Guesses with", deployment.spec.draft or ""),
        ("Pooling", deployment.pooling or ""),
        ("Embedding", f"{deployment.embedding_length:,} numbers" if deployment.embedding_length else ""),
        ("Settings", settings),
    ]

"""One deployment in full: its change under way, why this engine, replicas, pipeline, cache, signature, settings."""

from PySide6.QtCore import QTimer, Signal

from app.schema.manage import Deployment, DeploymentSpec, Problem, RouteSample, TensorMetadata
from ui import format
from ui.deployment_settings import CACHE
from ui.session import Session
from ui.tables.base import RowsModel
from ui.tables.deployments import CANDIDATES, REPLICAS, DeploymentRow
from ui.tables.station import progress_line
from ui.tensors import shape_text
from ui.widgets.basics import button, label, row, rule, set_text
from ui.widgets.card import Card
from ui.widgets.change_note import ChangeNote
from ui.widgets.facts import Facts
from ui.widgets.mark import StateMark
from ui.widgets.meter import Meter
from ui.widgets.notice import Notice
from ui.widgets.pipeline_graph import PipelineGraph, RouteNow
from ui.widgets.settings_form import SettingsForm
from ui.widgets.table import Table
from ui.words import DEPLOYMENT, abilities, chat_template, context, engine_and_device, missing_runtime


class DeploymentDetail(Card):
    """Says what the user wants in signals; the page does it."""

    switched = Signal(object, bool)
    """(deployment, whether to stop it)"""
    removed = Signal(str)
    declared = Signal(str, object)
    """(route, new declaration)"""
    forgot = Signal(str)
    """The route whose kept answers are to go."""
    wanted_runtime = Signal(str)
    wanted_route = Signal(str)
    opened = Signal(object)
    """The form that wants to be seen."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._deployment: Deployment | None = None
        self._declared: DeploymentSpec | None = None
        self._name = label("", "heading", selectable=True)
        self._task = label("", "chip")
        self.state = StateMark()
        self.problem = Notice()
        self.change = ChangeNote()
        self.change.dropped.connect(self._drop_change)
        self.install = button("", self._install, "primary")
        self._meter, self._progress = Meter("Installation"), label("", "caption", wrap=True)
        self._steps_title = label("Steps", "card")
        self.graph = PipelineGraph()
        self.graph.picked.connect(self.wanted_route)
        self._why = label("Why this engine", "card")
        self.reason = label("", "muted", wrap=True, selectable=True)
        self.candidates = RowsModel(CANDIDATES, lambda row: f"{row.engine} {row.device} {row.runtime}")
        self._candidates = Table("Engines considered", self.candidates, row_height=32, max_rows=5, selectable=False)
        self._replicas_title = label("Replicas", "card")
        self.replicas = RowsModel(REPLICAS, lambda row: row.id)
        self._replicas = Table("Replicas", self.replicas, row_height=32, max_rows=5, selectable=False)
        self.replica_errors = label("", "wrong", wrap=True, selectable=True)
        self._facts_title = label("Signature and settings", "card")
        self.facts = Facts()
        self.notes = label("", "muted", wrap=True, selectable=True)
        self.cache = label("", "", wrap=True)
        self.forget = button("Forget answers", self._forget, "link")
        self.form = SettingsForm()
        self.form.declared.connect(self._declare)
        self.form.cancelled.connect(self._close_form)
        self.edit = button("Settings…", self._edit, name="Change settings")
        self.remove = button("Remove", self._remove, "danger")
        self.switch = button("Stop", self._switch)
        self._build()

    def _build(self) -> None:
        self.add(row(self._name, self._task, None, self.state, spacing=10))
        for part in (
            self.problem, self.change, self._meter, self._progress, self._steps_title, self.graph, self._why,
            self.reason, self._candidates, self._replicas_title, self._replicas, self.replica_errors,
            self._facts_title, self.facts,
        ):  # fmt: skip
            self.add(part)
        kept = row(self.cache, self.forget)
        kept.setStretch(0, 1)
        self.add(kept)
        self.add(self.notes)
        self.add(rule())
        self.add(self.form)
        self.form.hide()
        self.add(row(self.remove, None, self.edit, self.switch, self.install))

    # --- what is shown ---------------------------------------------------------------------------------

    def show_row(self, shown: DeploymentRow | None) -> None:
        self.setVisible(shown is not None)
        if shown is None:
            self._deployment = None
            return
        if self._deployment is not None and self._deployment.route != shown.deployment.route:
            self._close_form()
        deployment = self._deployment = shown.deployment
        self._name.setText(deployment.route)
        set_text(self._task, "pipeline" if deployment.spec.pipeline else deployment.task.replace("-", " "))
        self.state.set_state(*DEPLOYMENT[deployment.state])
        if deployment.error is not None:
            self.problem.show_problem(deployment.error)
        else:
            self.problem.hide()
        self.change.show_change(deployment)
        self._show_pipeline(deployment)
        self._show_engine(deployment)
        self._show_replicas(deployment)
        self.facts.set_facts(_facts(deployment))
        self._show_cache(deployment, shown.sample)
        set_text(self.notes, "\n".join(deployment.notes))
        self.switch.setText("Start" if deployment.state in {"stopped", "failed"} else "Stop")
        self.switch.setAccessibleName(f"{self.switch.text()} {deployment.route}")
        self.edit.setVisible(deployment.spec.pipeline is None and self.form.isHidden())
        self._show_runtime(deployment)
        self._look_at_form(deployment)

    def _show_pipeline(self, deployment: Deployment) -> None:
        pipeline = deployment.spec.pipeline
        for widget in (self._steps_title, self.graph):
            widget.setVisible(pipeline is not None)
        if pipeline is None:
            return
        station = self._session.station
        now = {}
        for step in pipeline.steps:
            called, sample = station.deployments.get(step.route), station.samples.get(step.route)
            mark, word = DEPLOYMENT[called.state] if called is not None else ("wrong", "missing")
            latency = format.milliseconds(sample.p50_ms) if sample and sample.p50_ms is not None else ""
            now[step.route] = RouteNow(mark, word, latency)
        self.graph.show_pipeline(pipeline, now)

    def _show_engine(self, deployment: Deployment) -> None:
        decision = deployment.decision
        self._why.setVisible(decision is not None)
        set_text(self.reason, decision.reason if decision else "")
        self.candidates.set_rows(decision.candidates if decision else [])
        self._candidates.setVisible(bool(decision and decision.candidates))

    def _show_replicas(self, deployment: Deployment) -> None:
        self.replicas.set_rows(deployment.replicas)
        for widget in (self._replicas_title, self._replicas):
            widget.setVisible(bool(deployment.replicas))
        errors = [
            f"{replica.id}: {replica.error.message} {replica.error.hint}".strip()
            for replica in deployment.replicas
            if replica.error
        ]
        set_text(self.replica_errors, "\n".join(errors))

    def _show_cache(self, deployment: Deployment, sample: RouteSample) -> None:
        text = cache_words(deployment, sample)
        set_text(self.cache, text)
        self.forget.setVisible(bool(text) and bool(sample.cache_bytes))

    def _show_runtime(self, deployment: Deployment) -> None:
        station = self._session.station
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

    # --- settings --------------------------------------------------------------------------------------

    def _edit(self) -> None:
        if self._deployment is not None:
            self.form.edit(self._deployment, self._session.station.samples.get(self._deployment.route))
            self.form.show()
            self.edit.hide()
            first = next(iter(self.form.lines.values()), None)
            if first is not None:
                first.setFocus()
            # The page knows its new height only when all has been laid out.
            QTimer.singleShot(0, self, lambda: self.opened.emit(self.form))

    def _close_form(self) -> None:
        self.form.hide()
        self._declared = None
        if self._deployment is not None:
            self.edit.setVisible(self._deployment.spec.pipeline is None)

    def _declare(self, spec: DeploymentSpec) -> None:
        if self._deployment is not None:
            self._declared = spec
            self.declared.emit(self._deployment.route, spec)

    def _look_at_form(self, deployment: Deployment) -> None:
        """The form closes when what it asked for is what is declared."""
        if self._declared is not None and deployment.spec == self._declared:
            self._close_form()

    def refuse(self, problem: Problem) -> None:
        """What the daemon has against the declaration of the form, or of the way back."""
        if self._declared is not None and not self.form.isHidden():
            self.form.refuse(problem)
        else:
            self.problem.show_problem(problem)

    # --- actions ---------------------------------------------------------------------------------------

    def _drop_change(self) -> None:
        deployment = self._deployment
        if deployment is not None and deployment.pending is not None and deployment.pending.before is not None:
            self._declared = None
            self.declared.emit(deployment.route, deployment.pending.before)

    def _forget(self) -> None:
        if self._deployment is not None:
            self.forgot.emit(self._deployment.route)

    def _install(self) -> None:
        if self._deployment is not None:
            runtime = missing_runtime(self._deployment, self._session.station.runtimes)
            if runtime is not None:
                self.wanted_runtime.emit(runtime.name)

    def _remove(self) -> None:
        if self._deployment is not None:
            self.removed.emit(self._deployment.route)

    def _switch(self) -> None:
        if self._deployment is not None:
            self.switched.emit(self._deployment, self.switch.text() == "Stop")


def cache_words(deployment: Deployment, sample: RouteSample) -> str:
    """``Response cache: 62 % of requests, 12 MB of at most 64 MiB``; empty where it is off."""
    if not deployment.spec.settings.get(CACHE):
        return ""
    rate = sample.cache_hit_rate
    hits = f"{rate:.0%} of requests now".replace("%", " %") if rate is not None else "on"
    most = deployment.spec.settings.get("response_cache_mb", 64)
    kept = f", {format.size(sample.cache_bytes)} of at most {most} MiB" if sample.cache_bytes is not None else ""
    return f"Response cache: {hits}{kept}"


def _tensors(tensors: list[TensorMetadata]) -> str:
    return "\n".join(f"{meta.name}  {shape_text(meta)}" for meta in tensors)


def _facts(deployment: Deployment) -> list[tuple[str, str]]:
    settings = ", ".join(f"{key} {value}" for key, value in deployment.spec.settings.items() if key != CACHE)
    pipeline = deployment.spec.pipeline is not None
    engine = format.joined(engine_and_device(deployment), deployment.engine_version or "", deployment.precision or "")
    return [
        ("Model", "" if pipeline else f"{deployment.model} v{deployment.version}"),
        ("Engine", "" if pipeline else engine),
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

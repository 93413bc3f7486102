"""Rows of the deployments: what is served, by which engine, how fast."""

from dataclasses import dataclass

from app.schema.manage import Candidate, Deployment, Replica, RouteSample
from ui import format
from ui.stores.series import SeriesStore, across
from ui.stores.station import Station
from ui.tables.base import Cell, Column
from ui.widgets.sparkline import thin
from ui.words import COLORS, DEPLOYMENT, REPLICA, device_name, engine_and_device, engine_name, is_language


@dataclass(frozen=True)
class DeploymentRow:
    deployment: Deployment
    sample: RouteSample
    latency: tuple[float, ...] = ()
    """Fifteen minutes of p95, thinned."""


def deployment_rows(station: Station, series: SeriesStore | None = None) -> list[DeploymentRow]:
    """With ``series`` the rows carry their history, for the sparkline."""
    rows = []
    for route, deployment in station.deployments.items():
        sample = station.samples.get(route) or RouteSample(time="", route=route)
        latency: tuple[float, ...] = ()
        if series is not None:
            history = series.of(f"route:{route}")
            latency = tuple(thin(across([(history.times, history.column("p95_ms"))], max), 60))
        rows.append(DeploymentRow(deployment, sample, latency))
    return rows


def route_key(row: DeploymentRow) -> str:
    return row.deployment.route


def _state(row: DeploymentRow) -> Cell:
    mark, word = DEPLOYMENT[row.deployment.state]
    pending = row.deployment.pending
    if pending is None:
        return Cell(word, mark=mark, color=COLORS[mark])
    newer = f"v{pending.version}" if pending.version != row.deployment.version else ""
    if pending.state == "failed":
        return Cell(f"{newer or 'Change'} failed", mark="watch", color="watch")
    return Cell(word, mark="watch", color=COLORS[mark], note=f"→ {newer or 'new'}")


def _serving(row: DeploymentRow) -> Cell:
    pipeline = row.deployment.spec.pipeline
    return (
        Cell(f"v{row.deployment.version}") if pipeline is None else Cell(f"{len(pipeline.steps)} steps", color="muted")
    )


def _route(row: DeploymentRow) -> Cell:
    return Cell(row.deployment.route, mark=DEPLOYMENT[row.deployment.state][0], strong=True)


def _value(text: str) -> Cell:
    return Cell(text, color="muted" if text == format.NONE else "text")


def _rate(row: DeploymentRow) -> Cell:
    if row.deployment.state != "ready":
        return Cell(format.NONE, color="muted")
    if is_language(row.deployment) and row.sample.output_tokens_per_s:
        return Cell(f"{format.number(row.sample.output_tokens_per_s)} tok/s")
    return Cell(f"{format.number(row.sample.requests_per_s)} /s")


_ROUTE: Column[DeploymentRow] = Column("Route", _route, width=130, stretch=3)
_SERVING: Column[DeploymentRow] = Column("Serving", _serving, width=66, stretch=1, drop=2)
_ENGINE: Column[DeploymentRow] = Column(
    "Engine", lambda row: Cell(engine_and_device(row.deployment), color="muted"), width=148, stretch=3, drop=4
)
_RATE: Column[DeploymentRow] = Column("Requests", _rate, width=90, right=True)
_P95: Column[DeploymentRow] = Column(
    "p95", lambda row: _value(format.milliseconds(row.sample.p95_ms)), width=76, right=True, drop=1
)
_MEMORY: Column[DeploymentRow] = Column(
    "Memory", lambda row: Cell(format.size(row.deployment.memory_bytes), color="muted"), width=80, right=True, drop=3
)
_STATE: Column[DeploymentRow] = Column("State", _state, width=100, stretch=1, drop=1)

DEPLOYMENTS = [
    Column("Route", lambda row: Cell(row.deployment.route, strong=True), width=110, stretch=3),
    Column("State", _state, width=124, stretch=1),
    _SERVING, _ENGINE, _RATE, _P95, _MEMORY,
]  # fmt: skip
OVERVIEW = [
    _ROUTE, _SERVING, _ENGINE, _RATE, _P95,
    Column("p95, 15 min", lambda row: Cell(kind="spark", values=row.latency), width=130, stretch=1, drop=5),
    Column("Confidence", lambda row: _value(format.number(row.sample.confidence, 2)), width=90, right=True, drop=6),
    _STATE, _MEMORY,
]  # fmt: skip

CANDIDATES: list[Column[Candidate]] = [
    Column(
        "Engine",
        lambda row: Cell(
            engine_name(row.engine), mark="steady" if row.chosen else "off" if row.usable else "wrong",
            note=device_name(row.device), strong=row.chosen,
        ),
        width=150, stretch=2,
    ),
    Column("Why", lambda row: Cell(row.reason, color="muted"), width=120, stretch=4, drop=1),
]  # fmt: skip


def _replica_state(row: Replica) -> Cell:
    mark, word = REPLICA[row.state]
    restarts = "" if not row.restarts else format.plural(row.restarts, "restart")
    retry = f"again in {format.duration(row.retry_in_s)}" if row.retry_in_s else ""
    return Cell(word, mark=mark, note=format.joined(restarts, retry))


REPLICAS: list[Column[Replica]] = [
    Column("Replica", lambda row: Cell(row.id, strong=True), width=86, stretch=2),
    Column("State", _replica_state, width=92, stretch=3),
    Column("Device", lambda row: Cell(device_name(row.device) or format.NONE, color="muted"), width=64, drop=1),
    Column("Process", lambda row: Cell(str(row.pid or format.NONE), color="muted"), width=68, right=True, drop=2),
    Column("Memory", lambda row: Cell(format.size(row.memory_bytes), color="muted"), width=76, right=True),
]

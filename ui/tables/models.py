"""Rows of the Models page: what the registry holds and what the catalogue offers."""

from dataclasses import dataclass

from app.schema.manage import CatalogEntry, Job, Model, Version
from ui import format
from ui.stores.catalog import Catalog, download_of
from ui.stores.station import Station
from ui.tables.base import Cell, Column
from ui.words import DEPLOYMENT, FIT, Mark, is_active, task_name


@dataclass(frozen=True)
class ModelRow:
    name: str
    task: str
    size_bytes: int | None
    mark: Mark | None
    fit: str
    here: bool
    job: Job | None
    serving: str
    """The route that serves it, or an empty string."""
    entry: CatalogEntry | None
    model: Model | None

    @property
    def downloading(self) -> Job | None:
        return self.job if self.job is not None and is_active(self.job) else None


def model_rows(station: Station, catalog: Catalog, view: str) -> list[ModelRow]:
    """``view``: ``here`` or ``catalogue``. A file that is being fetched and is not in the catalogue is among
    those here."""
    entries = {entry.name: entry for entry in catalog.entries}
    names = list(entries) if view == "catalogue" else list(station.models)
    return [_row(name, entries.get(name), station) for name in names]


def _row(name: str, entry: CatalogEntry | None, station: Station) -> ModelRow:
    model = station.models.get(name)
    serving = [deployment for deployment in station.deployments.values() if deployment.model == name]
    mark: Mark | None = FIT[entry.fit] if entry else None
    fit = entry.fit_reason if entry else ""
    if serving:
        mark, word = DEPLOYMENT[serving[0].state]
        route = serving[0].route
        as_route = f" as {route}" if route != name else ""
        if serving[0].state == "ready":
            fit = f"serving{as_route}"
            fit += f", {format.size(serving[0].memory_bytes)} in memory" if serving[0].memory_bytes else ""
        else:
            fit = f"deployed{as_route}: {word.lower()}"
    elif model is not None and not fit:
        mark, fit = "off", "here, not serving"
    return ModelRow(
        name=name, task=task_name(model.task if model else entry.task if entry else ""),
        size_bytes=model.size_bytes if model else entry.size_bytes if entry else None, mark=mark, fit=fit,
        here=model is not None, job=download_of(name, entry.sources if entry else [], station),
        serving=serving[0].route if serving else "", entry=entry, model=model,
    )  # fmt: skip


def _action(row: ModelRow) -> Cell:
    if row.downloading is not None:
        return Cell(kind="progress", progress=row.downloading.progress)
    if not row.here:
        return Cell("Get", kind="button", action="get")
    return Cell("here", kind="chip")


MODELS: list[Column[ModelRow]] = [
    Column("Model", lambda row: Cell(row.name, strong=True), width=132, stretch=1),
    Column("Task", lambda row: Cell(row.task, color="muted"), width=150, drop=2),
    Column("Size", lambda row: Cell(format.size(row.size_bytes)), width=74, right=True, drop=1),
    Column("On this machine", lambda row: Cell(row.fit, mark=row.mark), width=190, stretch=8, drop=3),
    Column("", _action, width=84, right=True),
]

VERSIONS: list[Column[Version]] = [
    Column("Version", lambda row: Cell(f"v{row.version}", strong=True), width=64),
    Column("Format", lambda row: Cell(row.format, note=row.precision or ""), width=110, stretch=1),
    Column("Size", lambda row: Cell(format.size(row.size_bytes)), width=76, right=True),
]

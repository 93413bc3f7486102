"""The curated catalogue, fetched; what is here and what downloads is read off the station."""

from typing import Any

import msgspec
from PySide6.QtCore import QObject, Signal

from app.schema.manage import CatalogEntry, Job
from ui.stores.station import Station
from ui.words import is_active


class Catalog(QObject):
    """``entries`` in the daemon's order; ``wishes`` are models to serve as soon as their download ends."""

    changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.entries: list[CatalogEntry] = []
        self.wishes: set[str] = set()

    def fill(self, items: list[Any]) -> None:
        self.entries = [msgspec.convert(item, CatalogEntry) for item in items]
        self.changed.emit()

    def wish(self, name: str, *, wanted: bool = True) -> None:
        (self.wishes.add if wanted else self.wishes.discard)(name)
        self.changed.emit()


def download_of(name: str, sources: list[str], station: Station) -> Job | None:
    """The newest download of a model that is under way, or that failed since; `None` if there is none."""
    refs = {name, *sources}
    for job in station.jobs.values():
        if job.kind == "download" and (job.spec.get("ref") in refs or job.spec.get("name") == name):
            return job if is_active(job) or job.state == "failed" else None
    return None

"""Moments worth a vertical line in every chart of a route: it became ready, restarted, failed."""

from dataclasses import dataclass

import msgspec
from PySide6.QtCore import QObject

from app.schema.manage import Deployment
from ui.format import parse_time
from ui.sse import Event

LIMIT = 50


@dataclass(frozen=True)
class Moment:
    time: float
    words: str


class Marks(QObject):
    """Route → moments, oldest first, read off the changes of its deployment."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._moments: dict[str, list[Moment]] = {}
        self._seen: dict[str, tuple[str, str, int]] = {}

    def of(self, route: str) -> list[Moment]:
        return self._moments.get(route, [])

    def apply(self, event: Event) -> None:
        if event.name not in {"snapshot", "change"}:
            return
        message = msgspec.json.decode(event.data)
        if event.name == "snapshot":
            values = message["state"].get("deployment", {}).values()
        else:
            values = [message["value"]] if message["kind"] == "deployment" and message["value"] else []
        for value in values:
            self._note(msgspec.convert(value, Deployment))

    def _note(self, deployment: Deployment) -> None:
        restarts = sum(replica.restarts for replica in deployment.replicas)
        now = (deployment.state, deployment.since, restarts)
        before, self._seen[deployment.route] = self._seen.get(deployment.route), now
        time = parse_time(deployment.since)
        if time is None or before == now:
            return
        words = ""
        if before is not None and restarts > before[2]:
            words = "restarted"
        elif before is None or before[0] != deployment.state:
            words = {"ready": f"v{deployment.version} ready", "failed": "failed", "stopped": "stopped"}.get(
                deployment.state, ""
            )
        if words:
            moments = self._moments.setdefault(deployment.route, [])
            moments.append(Moment(time, words))
            del moments[:-LIMIT]

"""The daemon's state as the window knows it: a replica fed by events and written by nothing else."""

from typing import Any

import msgspec
from PySide6.QtCore import QObject, Signal

from app.schema.manage import Daemon, Deployment, Engine, Hardware, Job, Model, RouteSample, Runtime
from ui.sse import Event

TYPES: dict[str, type] = {
    "daemon": Daemon, "hardware": Hardware, "metrics": RouteSample, "deployment": Deployment, "model": Model,
    "job": Job, "runtime": Runtime, "engine": Engine,
}  # fmt: skip


class Station(QObject):
    """Kind → key → value, each value one struct of `app.schema.manage`.

    Signals: ``changed(kind, key)`` for one value, ``replaced()`` after a snapshot.
    """

    changed = Signal(str, str)
    replaced = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._state: dict[str, dict[str, Any]] = {kind: {} for kind in TYPES}
        self.loaded = False
        """Whether a snapshot has arrived."""

    def apply(self, event: Event) -> None:
        """Takes a ``snapshot`` or a ``change``; other events, and kinds of a newer daemon, are passed over."""
        message = msgspec.json.decode(event.data) if event.name in {"snapshot", "change"} else {}
        if event.name == "snapshot":
            state = message["state"]
            self._state = {
                kind: {key: msgspec.convert(value, cls) for key, value in state.get(kind, {}).items()}
                for kind, cls in TYPES.items()
            }
            self.loaded = True
            self.replaced.emit()
        elif event.name == "change" and message["kind"] in TYPES:
            kind, key, value = message["kind"], message["key"], message["value"]
            if value is None:
                self._state[kind].pop(key, None)
            else:
                self._state[kind][key] = msgspec.convert(value, TYPES[kind])
            self.changed.emit(kind, key)

    @property
    def daemon(self) -> Daemon | None:
        return self._state["daemon"].get("info")

    @property
    def hardware(self) -> Hardware | None:
        return self._state["hardware"].get("now")

    @property
    def deployments(self) -> dict[str, Deployment]:
        return dict(sorted(self._state["deployment"].items()))

    @property
    def models(self) -> dict[str, Model]:
        return dict(sorted(self._state["model"].items()))

    @property
    def jobs(self) -> dict[str, Job]:
        """Newest first."""
        return dict(sorted(self._state["job"].items(), key=lambda item: item[1].created, reverse=True))

    @property
    def runtimes(self) -> dict[str, Runtime]:
        return dict(sorted(self._state["runtime"].items()))

    @property
    def engines(self) -> dict[str, Engine]:
        return dict(sorted(self._state["engine"].items()))

    @property
    def samples(self) -> dict[str, RouteSample]:
        """The latest reading of each route."""
        return dict(sorted(self._state["metrics"].items()))

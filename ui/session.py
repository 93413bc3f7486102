"""One daemon, seen from the window: its client, its event stream and the stores they feed."""

from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec
from PySide6.QtCore import QObject, QTimer

from app.schema.manage import Deployment, DeploymentSpec, Problem
from ui.sse import Event
from ui.stores.catalog import Catalog
from ui.stores.connection import Connection
from ui.stores.marks import Marks
from ui.stores.series import LIMIT, SeriesStore
from ui.stores.station import Station
from ui.transport import Client, Done, EventStream, Failed

MANAGE = "/manage/v1"


class Session(QObject):
    """The only object that pages talk to: they read its stores and call its verbs."""

    def __init__(self, url: str, key: str = "", parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.client = Client(url, key, self)
        self.stream = EventStream(self.client, self)
        self.station = Station(self)
        self.series = SeriesStore(self)
        self.catalog = Catalog(self)
        self.marks = Marks(self)
        self.connection = Connection(self)
        self.stream.received.connect(self._event)
        self.stream.connected.connect(self.connection.came)
        self.stream.disconnected.connect(self.connection.went)
        self.station.replaced.connect(self._snapshot)
        self.station.changed.connect(self._changed)
        # A burst of changes asks for the catalogue once.
        self._ask_catalog = QTimer(self, singleShot=True, interval=150)
        self._ask_catalog.timeout.connect(self.refresh_catalog)
        self._known: set[str] = set()

    def start(self) -> None:
        self.stream.start()

    def close(self) -> None:
        self.stream.close()
        self.client.close()

    def _event(self, event: Event) -> None:
        for store in (self.connection, self.series, self.marks, self.station):
            store.apply(event)

    def _snapshot(self) -> None:
        self.refresh_catalog()
        self._known = set()
        self._ask_history("hardware")
        for route in self.station.deployments:
            self._ask_history(f"route:{route}")

    def _changed(self, kind: str, key: str) -> None:
        if kind == "deployment":
            self._ask_history(f"route:{key}")
        if kind == "model" or (kind == "job" and self._job_ended(key)):
            self._ask_catalog.start()

    def _job_ended(self, key: str) -> bool:
        job = self.station.jobs.get(key)
        if job is None or job.state not in {"succeeded", "failed", "cancelled"}:
            return False
        name = str(job.spec.get("name") or job.spec.get("ref") or "")
        if name in self.catalog.wishes:
            self.catalog.wish(name, wanted=False)
            if job.state == "succeeded":
                self.deploy(str((job.result or {}).get("model") or name))
        return True

    def _ask_history(self, source: str) -> None:
        if source in self._known:
            return
        self._known.add(source)
        path = f"{MANAGE}/timeseries?source={quote(source, safe=':')}&seconds={LIMIT}"
        self.client.get(path, partial(self.series.fill, source), partial(self._no_history, source), "items")

    def _no_history(self, source: str, _problem: Problem) -> None:
        self._known.discard(source)

    # --- verbs -----------------------------------------------------------------------------------------

    def refresh_catalog(self) -> None:
        self.client.get(f"{MANAGE}/catalog", self.catalog.fill, None, "items")

    def pull(self, ref: str, done: Done | None = None, failed: Failed | None = None) -> None:
        self.client.send("POST", f"{MANAGE}/jobs", {"kind": "download", "ref": ref}, done, failed)

    def install(self, runtime: str, failed: Failed | None = None) -> None:
        self.client.send("POST", f"{MANAGE}/jobs", {"kind": "runtime", "runtime": runtime}, None, failed)

    def uninstall(self, runtime: str, failed: Failed | None = None) -> None:
        self.client.send("DELETE", f"{MANAGE}/runtimes/{quote(runtime)}", None, None, failed)

    def job(self, verb: str, job_id: str, failed: Failed | None = None) -> None:
        """``verb``: pause, resume or cancel."""
        self.client.send("POST", f"{MANAGE}/jobs/{quote(job_id)}/{verb}", None, None, failed)

    def job_log(self, job_id: str, done: Done, failed: Failed | None = None) -> None:
        self.client.get(f"{MANAGE}/jobs/{quote(job_id)}/log", done, failed, "log")

    def deploy(self, model: str, route: str | None = None, failed: Failed | None = None) -> None:
        spec = DeploymentSpec(model=model)
        self.client.send("PUT", f"{MANAGE}/deployments/{quote(route or model)}", spec, None, failed, timeout_s=600)

    def set_stopped(self, deployment: Deployment, stopped: bool, failed: Failed | None = None) -> None:
        """Starts or stops a deployment, everything else about it unchanged."""
        self.declare(deployment.route, msgspec.structs.replace(deployment.spec, stopped=stopped), None, failed)

    def declare(self, route: str, spec: DeploymentSpec, done: Done | None = None, failed: Failed | None = None) -> None:
        """What should be at a route; what serves there goes on until it is ready."""
        self.client.send("PUT", f"{MANAGE}/deployments/{quote(route)}", spec, done, failed, timeout_s=600)

    def forget_answers(self, route: str, failed: Failed | None = None) -> None:
        """Empties the response cache of a deployment."""
        self.client.send("DELETE", f"{MANAGE}/deployments/{quote(route)}/cache", None, None, failed)

    def undeploy(self, route: str, failed: Failed | None = None) -> None:
        self.client.send("DELETE", f"{MANAGE}/deployments/{quote(route)}", None, None, failed)

    def remove_model(self, name: str, failed: Failed | None = None) -> None:
        self.client.send("DELETE", f"{MANAGE}/models/{quote(name)}", None, None, failed)

    def describe(
        self, name: str, version: int, card: dict[str, Any] | None, files: dict[str, bytes], task: str, done: Done,
        failed: Failed,
    ) -> None:  # fmt: skip
        """Lays the files beside a version, one after the other, then the card, which may need them. ``done`` is called
        after the last one, ``failed`` with the first that is refused."""
        base = f"{MANAGE}/models/{quote(name)}/versions/{version}"
        if files:
            file, content = next(iter(files.items()))
            rest = {key: value for key, value in files.items() if key != file}
            after = partial(self._described, (name, version, card, rest, task, done, failed))
            self.client.send("PUT", f"{base}/files/{quote(file)}", content, after, failed)
        elif card is not None:
            self.client.send("PUT", f"{base}/card{f'?task={quote(task)}' if task else ''}", card, done, failed)
        else:
            done(None)

    def _described(self, rest: tuple[Any, ...], _version: Any) -> None:
        self.describe(*rest)

    def engines(self, done: Done) -> None:
        """Asks the daemon what runs here; it also tells of changes in events."""
        self.client.get(f"{MANAGE}/engines", done, None, "items")

    def settings(self, done: Done, failed: Failed) -> None:
        self.client.get(f"{MANAGE}/settings", done, failed, "items")

    def samples(self, model: str, offset: int, done: Done, failed: Failed) -> None:
        path = f"{MANAGE}/models/{quote(model)}/samples?offset={offset}&limit=1"
        self.client.get(path, done, failed, "items")


__all__ = ["Problem", "Session"]

"""A real daemon, started as users start it, on a data directory and a free port of its own."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil

from tests.support.device import DEVICE

READY = "pilothouse ready on "
#: For what never comes, so that a test ends; an installation takes minutes.
WAIT_S = 900.0


class RunningDaemon:
    """``with RunningDaemon(folder) as daemon``: ended with its workers. `kill` and `start` it as often as needed."""

    def __init__(self, data_dir: Path, **environment: str):
        self.data_dir = data_dir
        self.environment = environment
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "PILOTHOUSE_DATA_DIR": str(self.data_dir), **self.environment}
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with (self.data_dir / "stderr.txt").open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app", "serve", "--port", "0"],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(READY), f"{line!r}; {(self.data_dir / 'stderr.txt').read_text()[-3000:]}"
        self.url = line.removeprefix(READY).strip()
        self.http = httpx2.Client(base_url=self.url, timeout=60)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def workers(self) -> list[psutil.Process]:
        found = []
        for child in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended, and is a zombie or gone
                if "engines" in child.cmdline():
                    found.append(child)
        return found

    def get(self, path: str, **more: Any) -> Any:
        return self._json(self.http.get(path, **more))

    def put(self, path: str, body: Any) -> Any:
        return self._json(self.http.put(path, json=body))

    def post(self, path: str, body: Any) -> Any:
        return self._json(self.http.post(path, json=body))

    @staticmethod
    def _json(answer: httpx2.Response) -> Any:
        assert answer.is_success, f"{answer.status_code}: {answer.text}"
        return answer.json()

    def changes(self, kind: str, key: str, until_s: float = math.inf) -> Iterator[dict[str, Any] | None]:
        """The states of one thing, from now on, as the event stream tells them; up to a time of `time.monotonic`."""
        with self.http.stream("GET", "/manage/v1/events", timeout=httpx2.Timeout(60, read=300)) as answer:
            event = ""
            for line in answer.iter_lines():
                if time.monotonic() > until_s:
                    return
                if line.startswith("event: "):
                    event = line[7:]
                elif line.startswith("data: "):
                    data = json.loads(line[6:])
                    if event == "snapshot":
                        yield data["state"].get(kind, {}).get(key)
                    elif (data["kind"], data["key"]) == (kind, key):
                        yield data["value"]

    def wait(self, kind: str, key: str, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + WAIT_S
        value = None
        for value in self.changes(kind, key, until_s=end):
            if value is not None and until(value):
                return value
        raise AssertionError(f"{kind} {key} did not become so: {value}")

    def deploy(self, model: str, route: str | None = None, **spec: Any) -> dict[str, Any]:
        """Declare, and wait until it is ready or failed, and no change of it is under way."""
        route = route or model
        self.put(f"/manage/v1/deployments/{route}", {"model": model, **spec})
        return self.settled(route)

    def settled(self, route: str) -> dict[str, Any]:
        return self.wait(
            "deployment",
            route,
            lambda d: d["state"] in ("ready", "failed") and (d["pending"] or {}).get("state") != "starting",
        )

    def job(self, **request: Any) -> dict[str, Any]:
        """Start a job and wait for its end."""
        job = self.post("/manage/v1/jobs", request)
        return self.wait("job", job["id"], lambda j: j["state"] in ("succeeded", "failed", "cancelled"))

    def pull(self, ref: str, name: str | None = None) -> dict[str, Any]:
        job = self.job(kind="download", ref=ref, **({"name": name} if name else {}))
        assert job["state"] == "succeeded", job["error"]
        return job

    def kill(self) -> None:
        """SIGKILL, as the system does when memory runs out."""
        assert self.process is not None
        self.http.close()
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        assert self.process is not None
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        assert self.process is not None and self.process.stdout is not None
        try:
            return self.process.wait(20)
        finally:
            self.process.stdout.close()

    def __enter__(self) -> "RunningDaemon":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.stop()


def gone_within(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that still run after ``seconds``."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return alive


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """Ask until it is true, at most ``seconds``: for what no event tells."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.02)
    return value


@contextlib.contextmanager
def serving(folder: Path, model: Path, name: str, **environment: str) -> Iterator[RunningDaemon]:
    """A daemon with its data in ``folder`` that serves the file ``model`` as ``name``."""
    with RunningDaemon(folder, **environment) as running:
        running.pull(f"file:{model}", name=name)
        state = running.deploy(name, device=DEVICE)
        assert state["state"] == "ready", state["error"]
        yield running

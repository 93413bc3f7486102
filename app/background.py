"""Finding the daemon that owns a data directory, and starting one in the background when there is none."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.client import ClientError
from app.paths import BACKGROUND, PACKAGE, DataDir
from app.settings import Settings

START_S = 30.0
#: Seconds that the winner of a race gets to become ready after the loser has ended.
OTHER_S = 3.0
POLL_S = 0.02


@dataclass(frozen=True)
class Running:
    """What ``daemon.json`` says."""

    url: str
    pid: int
    version: str


def read(data: DataDir) -> Running | None:
    """What is written in ``daemon.json``, true or stale; `None` if there is nothing that can be read."""
    try:
        entry = json.loads(data.daemon_file.read_text(encoding="utf-8"))
        # One that listens on every address is reached by the loopback.
        url = str(entry["url"]).replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
        return Running(url, int(entry["pid"]), str(entry["version"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def answers(url: str, path: str, timeout_s: float = 2.0) -> bool:
    """Whether ``url`` answers ``path`` with 200."""
    import httpx2

    try:
        with httpx2.Client(trust_env=False, verify=False, timeout=timeout_s) as http:
            return http.get(url.rstrip("/") + path).status_code == 200
    except (httpx2.HTTPError, httpx2.InvalidURL):
        return False


def find(data: DataDir) -> Running | None:
    """The daemon of ``data``, if it is alive: its process exists and it answers."""
    import psutil

    running = read(data)
    if running and psutil.pid_exists(running.pid) and answers(running.url, "/health/live"):
        return running
    return None


def port_is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name == "posix":  # elsewhere this option means to share the port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def start(data: DataDir, settings: Settings, *, timeout_s: float = START_S) -> Running:
    """Start a daemon that outlives this process, and return when it accepts requests.

    Port ``settings.port`` if it is free, else any. Of two that start at once one keeps the lock of the data
    directory; both callers get that one. Raises `ClientError` with the daemon's own last words.
    """
    data.create()
    output = data.logs / "background.log"
    deadline = time.monotonic() + timeout_s
    port = settings.port if port_is_free(settings.host, settings.port) else 0
    running = _start(data, settings, port, output, deadline)
    if not running and port and not port_is_free(settings.host, port):  # it was taken in between
        running = _start(data, settings, 0, output, deadline)
    if not running:
        raise ClientError(f"the daemon did not start: {_last_line(output)}", hint=f"see {output}")
    return running


def _start(data: DataDir, settings: Settings, port: int, output: Path, deadline: float) -> Running | None:
    """The daemon that is ready in the end, this one or another; `None` if this one gave up and there is no other."""
    process = _spawn(data, settings, port, output)
    try:
        running = _wait(data, lambda: process.poll() is not None, deadline)
        if not running and process.poll() is None:
            raise ClientError("the daemon is not ready yet", hint=f"try again in a moment; see {output}")
        # Where another one holds the lock, it may still be starting.
        return running or _wait(data, lambda: False, min(deadline, time.monotonic() + OTHER_S))
    finally:
        if process.returncode is None:
            process.returncode = 0  # it outlives us on purpose: no complaint when this object is collected


def ensure(data: DataDir, settings: Settings) -> Running:
    """The daemon of ``data``, started if none runs."""
    return find(data) or start(data, settings)


def _spawn(data: DataDir, settings: Settings, port: int, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "app", "serve", "--data-dir", str(data.root.resolve())]
    if port != settings.port:
        command += ["--port", str(port)]
    # `-m` puts the working directory first on the path: never the user's, which may hold an `app` of its own.
    checkout = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").exists() else data.root
    detached: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
        detached = {"creationflags": flags}
    with output.open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=checkout,
            env={**os.environ, BACKGROUND: "1"},
            close_fds=True,
            **detached,
        )


def _wait(data: DataDir, given_up: Callable[[], bool], deadline: float) -> Running | None:
    """Poll until the daemon of ``data`` is alive and ready, or ``given_up``, or ``deadline`` (monotonic)."""
    while time.monotonic() < deadline:
        if (running := find(data)) and answers(running.url, "/health/ready"):
            return running
        if given_up():
            return None
        time.sleep(POLL_S)
    return None


def _last_line(file: Path) -> str:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1].removeprefix("pilothouse: ") if lines else "it ended without a word"

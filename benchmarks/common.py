"""What the benchmarks share: starting servers, interleaving rounds, medians."""

import contextlib
import json
import math
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, process: "subprocess.Popen[Any]", seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"{process.args} ended with {process.returncode}")
        with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.05)
    raise SystemExit(f"{url} did not answer")


@contextlib.contextmanager
def server(command: list[str], ready_url: str, **environment: str) -> Iterator["subprocess.Popen[Any]"]:
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment}, cwd=ROOT
    )
    try:
        wait_for(ready_url, process)
        yield process
    finally:
        process.terminate()
        process.wait(20)


def ask(method: str, url: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        url, None if body is None else json.dumps(body).encode(), {"content-type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()  # type: ignore[no-any-return]


@contextlib.contextmanager
def pilothouse(*deployments: tuple[str, dict[str, Any]], models: dict[str, str] | None = None) -> Iterator[str]:
    """A daemon of its own with ``deployments`` ready; gives its URL. ``models``: name -> reference to pull first."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "app", "serve", "--port", str(port), "--data-dir", folder]
        with server(command, f"{url}/health/ready"):
            for name, ref in (models or {}).items():
                job = ask("POST", f"{url}/manage/v1/jobs", {"kind": "download", "ref": ref, "name": name})
                while job["state"] not in ("succeeded", "failed"):
                    time.sleep(0.2)
                    job = ask("GET", f"{url}/manage/v1/jobs/{job['id']}")
                if job["state"] == "failed":
                    raise SystemExit(job["error"]["message"])
            for route, spec in deployments:
                state = ask("PUT", f"{url}/manage/v1/deployments/{route}", spec)
                while state["state"] not in ("ready", "failed"):
                    time.sleep(0.2)
                    state = ask("GET", f"{url}/manage/v1/deployments/{route}")
                if state["state"] == "failed":
                    raise SystemExit(state["error"]["message"])
            yield url


Rounds = dict[str, list[dict[str, float]]]


def interleave(subjects: dict[str, Callable[[], dict[str, float]]], rounds: int) -> Rounds:
    """Each subject in turn, ``rounds`` times, after one round that does not count."""
    results: Rounds = {name: [] for name in subjects}
    for number in range(rounds + 1):
        for name, measure in subjects.items():
            figures = measure()
            if number:
                results[name].append(figures)
    return results


def report(title: str, results: Rounds, ours: str = "pilothouse") -> None:
    """A Markdown table of medians, and of each figure's median ratio, round by round, to ours."""
    names = list(results)
    print(f"\n{title}\n\n| figure | {' | '.join(names)} | {' | '.join(f'{ours} / {n}' for n in names if n != ours)} |")
    print("|---" * (2 * len(names)) + "|")
    for figure in results[ours][0]:
        medians = [statistics.median(entry[figure] for entry in results[name]) for name in names]
        ratios = [
            statistics.median(
                mine[figure] / (theirs[figure] or math.nan)
                for mine, theirs in zip(results[ours], results[name], strict=True)
            )
            for name in names
            if name != ours
        ]
        row = [f"{value:,.2f}" if value < 100 else f"{value:,.0f}" for value in medians]
        print(f"| {figure} | {' | '.join(row)} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |", flush=True)


def machine() -> str:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return f"{cpu}, {os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}"


def keep(path: str | None, results: dict[str, Any]) -> None:
    if path:
        Path(path).write_text(json.dumps({"machine": machine(), **results}, indent=1))

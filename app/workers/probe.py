"""What the installed runtimes can serve, asked of each in a process of its own."""

import asyncio
import json
import logging
import os
import subprocess
from collections.abc import Sequence
from typing import Any

from app.events import Bus
from app.paths import DataDir
from app.schema.manage import Engine
from app.workers.runtimes import Interpreter, Runtimes
from engines.selection import Installed

log = logging.getLogger(__name__)

TIMEOUT_S = 60.0
ENGINES = ("onnxruntime", "llamacpp", "tensorrt")
_TITLES = {"onnxruntime": "ONNX Runtime", "llamacpp": "llama.cpp", "tensorrt": "TensorRT"}
_INSTALL = {"onnxruntime": "onnxruntime-cpu", "llamacpp": "llamacpp-cpu", "tensorrt": "tensorrt"}


class Prober:
    """Asks each interpreter once and remembers; an interpreter whose version changed is asked again."""

    def __init__(self, runtimes: Runtimes):
        self._runtimes = runtimes
        self._known: dict[tuple[str, str | None, str], list[dict[str, Any]]] = {}
        self._asking = asyncio.Lock()

    async def reports(self, engine: str) -> list[tuple[Interpreter, dict[str, Any]]]:
        """Each interpreter that claims ``engine``, with what its probe found of it."""
        found = []
        async with self._asking:
            for interpreter in self._runtimes.interpreters(engine):
                key = (interpreter.runtime, interpreter.version, str(interpreter.python))
                reports = self._known.get(key)
                if reports is None:
                    reports = await asyncio.to_thread(probe, interpreter)
                    if not any(report.get("failed") for report in reports):  # else it is asked again
                        self._known[key] = reports
                found += [(interpreter, report) for report in reports if report["engine"] == engine]
        return found

    async def installed(self, engine: str) -> list[Installed]:
        if engine == "echo":
            return [Installed("echo", entry.runtime, "1", ["cpu"]) for entry in self._runtimes.interpreters("echo")]
        return [
            Installed(engine, interpreter.runtime, report["version"], report["devices"], report["reason"])
            for interpreter, report in await self.reports(engine)
            if report["usable"]
        ]

    async def engines(self) -> list[Engine]:
        """Every engine on this machine: usable or not, why not, and the command that mends it."""
        return [describe(engine, await self.reports(engine)) for engine in ENGINES]

    def forget(self) -> None:
        self._known.clear()


def describe(engine: str, reports: Sequence[tuple[Interpreter, dict[str, Any]]]) -> Engine:
    title, remedy = _TITLES[engine], f"pilothouse runtime install {_INSTALL[engine]}"
    for interpreter, report in reports:
        if report["usable"]:
            return Engine(
                name=engine,
                version=report["version"],
                usable=True,
                reason=report["reason"],
                devices=report["devices"],
                runtime=interpreter.runtime,
            )
    if reports:
        interpreter, report = reports[0]
        return Engine(
            name=engine,
            version=report["version"],
            usable=False,
            reason=report["reason"],
            remedy=remedy,
            runtime=interpreter.runtime,
        )
    return Engine(name=engine, version=None, usable=False, reason=f"{title} is not installed", remedy=remedy)


def probe(interpreter: Interpreter) -> list[dict[str, Any]]:
    """Blocks for about a second. What cannot even be started is reported as unusable, never raised."""
    try:
        done = subprocess.run(
            [str(interpreter.python), "-P", "-m", "engines", "probe"],
            env={**os.environ, **interpreter.env},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
        reports: list[dict[str, Any]] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        words = getattr(error, "stderr", "") or str(error)
        last = words.strip().splitlines()[-1] if words.strip() else type(error).__name__
        log.warning("the probe of %s failed: %s", interpreter.runtime, last)
        return [
            {
                "engine": engine,
                "version": None,
                "devices": [],
                "usable": False,
                "reason": f"its probe failed: {last}",
                "failed": True,
            }
            for engine in ENGINES
        ]
    return reports


def engines(data: DataDir) -> list[Engine]:
    """For `pilothouse doctor`, which works without a daemon."""
    return asyncio.run(Prober(Runtimes(data, Bus())).engines())

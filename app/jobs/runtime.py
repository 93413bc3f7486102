"""Installing an engine runtime, as a job."""

from collections.abc import Mapping
from typing import Any

from app.jobs.runner import Context
from app.workers.installation import Installed
from app.workers.runtimes import Runtimes


class InstallRuntime:
    """The handler of ``runtime`` jobs. It does not resume in the middle: an interrupted one begins again."""

    def __init__(self, runtimes: Runtimes):
        self._runtimes = runtimes

    def title(self, spec: Mapping[str, Any]) -> str:
        self._runtimes.check(spec["runtime"])
        return f"Install {spec['runtime']}"

    def already(self, spec: Mapping[str, Any]) -> dict[str, Any] | None:
        entry = self._runtimes.installed(spec["runtime"])
        return _result(entry) if entry else None

    async def run(self, context: Context) -> dict[str, Any]:
        entry = await self._runtimes.install(context.spec["runtime"], context.report, context.log, context.id)
        context.report(1.0, f"{entry.name} is installed")
        return _result(entry)

    async def discard(self, job_id: str) -> None:
        """Nothing outlives a run."""


def _result(entry: Installed) -> dict[str, Any]:
    return {"runtime": entry.name, **{key: getattr(entry, key) for key in ("engine", "version", "size_bytes")}}

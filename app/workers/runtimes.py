"""Engine runtimes: environments of their own, each with one engine's packages at pinned versions and hashes.

``runtimes/NAME/`` is a virtual environment with a ``runtime.json``, which is written last; it is built beside its
place and renamed into it, so that a half-installed runtime is never seen. The daemon's own environment counts as the
runtime ``environment`` for the engines that are installed in it.
"""

import asyncio
import importlib.metadata
import importlib.util
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from app.errors import Conflict, EngineFailed, EngineUnavailable, NotFound
from app.events import Bus
from app.paths import DataDir
from app.schema.manage import Runtime
from app.workers.commands import end_tree
from app.workers.installation import (
    ENGINES_SOURCE,
    KNOWN,
    OWN_PACKAGES_ONLY,
    Installed,
    Report,
    build,
    copy_engines,
    engines_digest,
    file_digest,
    owner_file,
    python_of,
    requirements_file,
    write_installed,
)
from engines import protocol

ENVIRONMENT = "environment"


@dataclass(frozen=True)
class Interpreter:
    """What a worker is started with: ``python -P -m engines …`` under ``env`` added to the daemon's own."""

    runtime: str
    python: Path
    env: Mapping[str, str]
    version: str | None
    """Of the engine."""


Interpreters = list[Interpreter]


class Runtimes:
    """The runtimes of one data directory; published as event kind ``runtime`` once `start` was called."""

    def __init__(self, data: DataDir, bus: Bus):
        self._root, self._bus = data.runtimes, bus
        self._installed = _scan(self._root)
        self._installing: dict[str, str] = {}
        self._failed: dict[str, str] = {}

    async def start(self) -> None:
        """Clean up what a killed daemon left, bring each runtime's ``engines`` up to date, publish all."""
        await asyncio.to_thread(self._clean)
        self._installed = _scan(self._root)
        current = engines_digest()
        for name, entry in self._installed.items():
            if entry.engines_sha256 != current:
                self._installed[name] = await asyncio.to_thread(self._refresh, entry, current)
        self._publish()

    def list(self) -> list[Runtime]:
        """Every runtime that is or could be here; ``environment`` first where it has an engine."""
        own = {engine: version for engine in dict.fromkeys(known.engine for known in KNOWN.values())
               if (version := _own_version(engine)) is not None}  # fmt: skip
        environment = [
            Runtime(
                name=ENVIRONMENT,
                engine=", ".join(own),
                state="environment",
                version=", ".join(own.values()),
                description="the environment that Pilothouse itself runs in",
            )
        ]
        return [*(environment if own else []), *map(self._describe, KNOWN)]

    def interpreters(self, engine: str) -> Interpreters:
        """Interpreters that claim ``engine``, best first: installed runtimes, then the daemon's own environment."""
        found = [
            Interpreter(name, python_of(self._root / name), OWN_PACKAGES_ONLY, entry.version)
            for name in KNOWN
            if (entry := self._installed.get(name)) is not None and entry.engine == engine
        ]
        version = str(protocol.VERSION) if engine == "echo" else _own_version(engine)
        return [*found, own_interpreter(version)] if version is not None else found

    def check(self, name: str) -> None:
        """Raises `NotFound` for a runtime that does not exist."""
        if name not in KNOWN:
            raise NotFound(f"there is no runtime {name!r}", hint=f"there are {', '.join(KNOWN)}", field="runtime")

    def installed(self, name: str) -> Installed | None:
        """What is installed under this name, if it is what this version of Pilothouse would install."""
        entry = self._installed.get(name)
        return entry if entry and entry.requirements_sha256 == file_digest(requirements_file(name)) else None

    async def install(self, name: str, report: Report, log: Callable[[str], None], job: str | None = None) -> Installed:
        """Make the runtime, or do nothing where it is here; ``report`` hears progress (0 to 1) and words.

        An older one of the same name serves until the new one takes its place. When cancelled, every process that
        was started is ended and nothing is left.

        Raises `NotFound`, `Conflict` (being installed), `EngineUnavailable` (the hint has the remedy), `EngineFailed`.
        """
        self.check(name)
        if (entry := self.installed(name)) is not None:
            return entry
        if name in self._installing:
            raise Conflict(f"{name} is being installed already")
        self._installing[name] = job or ""
        self._failed.pop(name, None)
        partial = self._root / f"{name}.partial-{secrets.token_hex(4)}"
        self._publish()
        try:
            entry = await build(name, partial, report, log)
            await asyncio.to_thread(self._put_in_place, name, partial)
            self._installed[name] = entry
            return entry
        except (EngineUnavailable, EngineFailed) as error:
            self._failed[name] = error.message
            raise
        finally:
            del self._installing[name]
            owner_file(partial).unlink(missing_ok=True)
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True))
            self._publish()

    async def remove(self, name: str) -> None:
        """Whether something uses it is the caller's to know. Raises `NotFound`, `Conflict`."""
        self.check(name)
        if name in self._installing:
            raise Conflict(f"{name} is being installed", hint="cancel its job first")
        if name not in self._installed:
            raise NotFound(f"{name} is not installed", field="runtime")
        gone = self._root / f"{name}.removing-{secrets.token_hex(4)}"
        (self._root / name).rename(gone)  # at once and whole; on Windows it fails while a worker runs in it
        del self._installed[name]
        self._publish()
        await asyncio.to_thread(shutil.rmtree, gone, ignore_errors=True)

    # --- inside ------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        for runtime in self.list():
            if self._bus.state.get("runtime", {}).get(runtime.name) != runtime:
                self._bus.publish("runtime", runtime.name, runtime)

    def _describe(self, name: str) -> Runtime:
        known, entry = KNOWN[name], self._installed.get(name)
        outdated = entry is not None and self.installed(name) is None
        return Runtime(
            name=name,
            engine=known.engine,
            state="installing" if name in self._installing else
                  "installed" if entry else "failed" if name in self._failed else "available",
            version=entry.version if entry else None,
            size_bytes=entry.size_bytes if entry else None,
            description=known.description,
            note=self._failed.get(name, "a newer list of packages is there: install it again" if outdated else ""),
            job=self._installing.get(name) or None,
        )  # fmt: skip

    def _put_in_place(self, name: str, partial: Path) -> None:
        place = self._root / name
        old = self._root / f"{name}.removing-{secrets.token_hex(4)}"
        if place.exists():
            place.rename(old)
        partial.rename(place)
        shutil.rmtree(old, ignore_errors=True)

    def _clean(self) -> None:
        for owner in self._root.glob("*.partial-*.pid"):
            end_tree(owner)
            owner.unlink(missing_ok=True)
        for partial in self._root.glob("*.partial-*"):
            place = self._root / partial.name.partition(".")[0]
            if (partial / "runtime.json").exists() and not place.exists():
                partial.rename(place)  # killed while the new one took the place of the old
        for pattern in ("*.partial-*", "*.removing-*"):
            for leftover in self._root.glob(pattern):
                shutil.rmtree(leftover, ignore_errors=True)

    def _refresh(self, entry: Installed, digest: str) -> Installed:
        folder = self._root / entry.name
        copy_engines(folder)
        entry = msgspec.structs.replace(entry, engines_sha256=digest)
        write_installed(folder / "runtime.json", entry)
        return entry


def own_interpreter(version: str | None) -> Interpreter:
    """The daemon's own; ``-P`` keeps the current folder off the path, so where `engines` lies must be said."""
    paths = [str(ENGINES_SOURCE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return Interpreter(ENVIRONMENT, Path(sys.executable), {"PYTHONPATH": os.pathsep.join(paths)}, version)


def _own_version(engine: str) -> str | None:
    """The version of ``engine`` in the daemon's own environment, told without importing it."""
    for known in KNOWN.values():
        if known.engine == engine and importlib.util.find_spec(known.module) is not None:
            for distribution in known.distributions:
                try:
                    return importlib.metadata.version(distribution)
                except importlib.metadata.PackageNotFoundError:
                    continue
            return "unknown"
    return None


def _scan(root: Path) -> dict[str, Installed]:
    return {entry.name: entry for entry in map(_read, root.glob("*/runtime.json")) if entry}


def _read(path: Path) -> Installed | None:
    try:
        entry = msgspec.json.decode(path.read_bytes(), type=Installed)
    except (OSError, msgspec.MsgspecError):
        return None
    return entry if entry.name == path.parent.name and python_of(path.parent).exists() else None

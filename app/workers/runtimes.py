"""Engine runtimes: environments of their own, each with one engine's packages at pinned versions and hashes.

``runtimes/NAME/`` is a virtual environment with a ``runtime.json``, which is written last; it is built beside its
place and renamed into it, so that a half-installed runtime is never seen. The daemon's own environment counts as the
runtime ``environment`` for the engines that are installed in it.
"""

import asyncio
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from app.errors import Conflict, EngineFailed, EngineUnavailable, NotFound
from app.events import Bus
from app.paths import DataDir, resource
from app.schema.manage import Runtime
from app.workers.commands import Line, end_tree, run
from engines import protocol

ENVIRONMENT = "environment"
_ENGINES_SOURCE = Path(protocol.__file__).resolve().parent
#: A PYTHONPATH of the daemon would put other packages before those of a runtime.
_OWN_PACKAGES_ONLY = {"PYTHONPATH": ""}
_COMPILER = "apt-get install -y build-essential cmake"


@dataclass(frozen=True)
class Known:
    """A runtime that can be installed."""

    engine: str
    description: str
    module: str
    """What must be importable in it."""
    distributions: tuple[str, ...]
    """Of which the first one installed tells the engine's version."""
    build_env: Mapping[str, str] = field(default_factory=dict)
    """Set while packages are built from source; empty where none is."""
    tools: Mapping[str, str] = field(default_factory=dict)
    """Programs the build needs (alternatives joined by ``|``) → the command that installs them."""


_LLAMA = ("llama_cpp", ("llama-cpp-python",))
_ONNX = ("onnxruntime", ("onnxruntime-gpu", "onnxruntime"))
_CXX = "c++|g++|clang++"

#: Best first, within an engine.
KNOWN: dict[str, Known] = {
    "onnxruntime-cuda": Known("onnxruntime", "ONNX Runtime for NVIDIA GPUs, CUDA and cuDNN included (2 GB)", *_ONNX),
    "onnxruntime-cpu": Known("onnxruntime", "ONNX Runtime for the CPU", *_ONNX),
    "llamacpp-cuda": Known(
        "llamacpp",
        "llama.cpp compiled for this machine's NVIDIA GPU",
        *_LLAMA,
        # pip's cache of built wheels does not know for what they were built.
        build_env={"CMAKE_ARGS": "-DGGML_CUDA=on", "PIP_NO_CACHE_DIR": "1"},
        tools={_CXX: _COMPILER, "nvcc": "apt-get install -y nvidia-cuda-toolkit"},
    ),
    "llamacpp-cpu": Known(
        "llamacpp",
        "llama.cpp compiled for this machine's CPU",
        *_LLAMA,
        build_env={"CMAKE_ARGS": "-DGGML_NATIVE=ON"},
        tools={_CXX: _COMPILER},
    ),
    "tensorrt": Known("tensorrt", "TensorRT for data centre and desktop GPUs of NVIDIA", "tensorrt", ("tensorrt",)),
    "tensorrt-rtx": Known("tensorrt", "TensorRT for RTX", "tensorrt_rtx", ("tensorrt-rtx-cu13", "tensorrt-rtx")),
}


@dataclass(frozen=True)
class Interpreter:
    """What a worker is started with: ``python -P -m engines …`` under ``env`` added to the daemon's own."""

    runtime: str
    python: Path
    env: Mapping[str, str]
    version: str | None
    """Of the engine."""


Interpreters = list[Interpreter]


class Installed(msgspec.Struct, frozen=True):
    """``runtime.json``."""

    name: str
    engine: str
    version: str | None
    size_bytes: int
    requirements_sha256: str
    engines_sha256: str
    created: str


Report = Callable[[float, str], None]


class Runtimes:
    """The runtimes of one data directory; published as event kind ``runtime`` once `start` was called."""

    def __init__(self, data: DataDir, bus: Bus):
        self._root, self._bus = data.runtimes, bus
        self._installed = {entry.name: entry for entry in map(_read, self._root.glob("*/runtime.json")) if entry}
        self._installing: dict[str, str] = {}
        self._failed: dict[str, str] = {}

    async def start(self) -> None:
        """Clean up what a killed daemon left, bring each runtime's ``engines`` up to date, publish all."""
        await asyncio.to_thread(self._clean)
        current = _engines_digest()
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
            Interpreter(name, _python(self._root / name), _OWN_PACKAGES_ONLY, entry.version)
            for name in KNOWN
            if (entry := self._installed.get(name)) is not None and entry.engine == engine
        ]
        version = protocol_version if engine == "echo" else _own_version(engine)
        return [*found, own_interpreter(version)] if version is not None else found

    def check(self, name: str) -> None:
        """Raises `NotFound` for a runtime that does not exist."""
        if name not in KNOWN:
            raise NotFound(f"there is no runtime {name!r}", hint=f"there are {', '.join(KNOWN)}", field="runtime")

    def installed(self, name: str) -> Installed | None:
        """What is installed under this name, if it is what this version of Pilothouse would install."""
        entry = self._installed.get(name)
        return entry if entry and entry.requirements_sha256 == _file_digest(_requirements(name)) else None

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
            entry = await self._build(name, partial, report, log)
            await asyncio.to_thread(self._put_in_place, name, partial)
            self._installed[name] = entry
            return entry
        except (EngineUnavailable, EngineFailed) as error:
            self._failed[name] = error.message
            raise
        finally:
            del self._installing[name]
            _owner(partial).unlink(missing_ok=True)
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

    async def _build(self, name: str, partial: Path, report: Report, log: Callable[[str], None]) -> Installed:
        known, requirements = KNOWN[name], _requirements(name)
        if not requirements.is_file():
            raise EngineUnavailable(f"{name} cannot be installed: this version has no package list for it")
        for tool, remedy in known.tools.items():
            if os.name == "posix" and not any(map(shutil.which, tool.split("|"))):
                raise EngineUnavailable(
                    f"{name} is compiled here and {tool.partition('|')[0]} is missing",
                    hint=remedy,
                    details={"tool": tool},
                )
        owner = _owner(partial)
        pip = await _make_environment(partial, owner, report, log)
        phases = Phases(report, compiled=bool(known.build_env))

        def heard(line: Line) -> None:
            log(line.text)
            phases.heard(line.text)

        verbose = ["--verbose"] if known.build_env else []
        command = [*pip, "install", "--require-hashes", "--disable-pip-version-check", "--progress-bar", "off"]
        await run(
            [*command, *verbose, "-r", str(requirements)],
            on_line=heard,
            on_tick=phases.tick,
            env={**known.build_env, "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)},
            owner=owner,
            low_priority=True,
            failure=f"installing {name} failed",
        )
        await asyncio.to_thread(_copy_engines, partial)
        report(0.97, "checking that it works")
        smoke = (
            f"import {known.module}, importlib.metadata as m, json, engines.protocol\n"
            "found = {d.metadata['Name']: d.version for d in m.distributions()}\n"
            f"print(json.dumps(next((found[d] for d in {known.distributions!r} if d in found), None)))"
        )
        lines: list[str] = []
        await run(
            [str(_python(partial)), "-P", "-c", smoke],
            on_line=lambda line: lines.append(line.text) if line.out else log(line.text),
            env=_OWN_PACKAGES_ONLY,
            owner=owner,
            failure=f"{name} was installed and does not work",
        )
        entry = Installed(
            name=name,
            engine=known.engine,
            version=json.loads(lines[-1]),
            size_bytes=await asyncio.to_thread(_size_bytes, partial),
            requirements_sha256=_file_digest(requirements),
            engines_sha256=_engines_digest(),
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        _write(partial / "runtime.json", entry)
        return entry

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
        for pattern in ("*.partial-*", "*.removing-*"):
            for leftover in self._root.glob(pattern):
                shutil.rmtree(leftover, ignore_errors=True)

    def _refresh(self, entry: Installed, digest: str) -> Installed:
        folder = self._root / entry.name
        _copy_engines(folder)
        entry = msgspec.structs.replace(entry, engines_sha256=digest)
        _write(folder / "runtime.json", entry)
        return entry


class Phases:
    """Progress of an installation, told from what pip says."""

    #: A compile of llama.cpp on two cores; only to have the bar move where the build tool counts nothing.
    EXPECTED_BUILD_S = 480.0

    def __init__(self, report: Report, *, compiled: bool, clock: Callable[[], float] = time.monotonic):
        self._report, self._compiled, self._clock = report, compiled, clock
        self._progress, self._message = 0.05, "fetching packages"
        self._building_since: float | None = None
        self._counted = False
        report(self._progress, self._message)

    def heard(self, text: str) -> None:
        text = text.strip()
        if text.startswith("Collecting "):
            self._say(min(self._progress + 0.01, 0.15), f"fetching {text.split()[1].partition('=')[0]}")
        elif text.startswith("Building wheel for ") and self._compiled:
            self._building_since = self._clock()
            self._say(0.15, f"compiling {text.split()[3]}")
        elif text.startswith("Installing collected packages"):
            self._building_since = None
            self._say(0.95 if self._compiled else 0.6, "installing packages")
        elif self._building_since is not None and (step := _build_step(text)) is not None:
            done, total = step
            self._counted = True
            self._say(0.15 + 0.8 * done / total, f"compiling for this machine: step {done} of {total}")

    def tick(self) -> None:
        """Once a second: where the build tool counts nothing, time stands in for it."""
        if self._building_since is not None and not self._counted:
            elapsed_s = self._clock() - self._building_since
            share = elapsed_s / (elapsed_s + self.EXPECTED_BUILD_S / 2)  # ever slower, never there
            self._say(0.15 + 0.8 * share, f"compiling for this machine: {elapsed_s / 60:.0f} min so far")

    def _say(self, progress: float, message: str) -> None:
        self._progress, self._message = max(progress, self._progress), message
        self._report(self._progress, message)


def _build_step(text: str) -> tuple[int, int] | None:
    """``[12/345] Building …`` of ninja, or ``[ 12%] Building …`` of make."""
    if not text.startswith("["):
        return None
    inside = text[1:].partition("]")[0].strip()
    done, slash, total = inside.partition("/")
    if slash and done.isdecimal() and total.isdecimal() and 0 < int(total) >= int(done):
        return int(done), int(total)
    return (int(inside[:-1]), 100) if inside.endswith("%") and inside[:-1].isdecimal() else None


async def _make_environment(folder: Path, owner: Path, report: Report, log: Callable[[str], None]) -> list[str]:
    """A virtual environment at ``folder``; returns the pip command for it."""
    report(0.01, "making an environment")
    bundled = importlib.util.find_spec("pip") is not None
    if not bundled and importlib.util.find_spec("ensurepip") is None:
        raise EngineUnavailable(
            "this Python can make no environments: ensurepip is missing", hint="apt-get install -y python3-venv"
        )
    await run(
        [sys.executable, "-m", "venv", *(["--without-pip"] if bundled else []), str(folder)],
        on_line=lambda line: log(line.text),
        owner=owner,
        failure="making the environment failed",
        hint="apt-get install -y python3-venv",
    )
    python = str(_python(folder))
    return [sys.executable, "-m", "pip", "--python", python] if bundled else [python, "-m", "pip"]


def own_interpreter(version: str | None) -> Interpreter:
    """The daemon's own; ``-P`` keeps the current folder off the path, so where `engines` lies must be said."""
    paths = [str(_ENGINES_SOURCE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return Interpreter(ENVIRONMENT, Path(sys.executable), {"PYTHONPATH": os.pathsep.join(paths)}, version)


protocol_version = str(protocol.VERSION)


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


def _owner(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.pid")


def _requirements(name: str) -> Path:
    try:
        return resource("requirements") / f"{name}.txt"
    except FileNotFoundError:
        return Path(f"{name}.txt")


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _site_packages(folder: Path) -> Path:
    if os.name == "nt":
        return folder / "Lib" / "site-packages"
    return folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def _copy_engines(folder: Path) -> None:
    """By rename, so that a worker that starts meanwhile finds the old or the new."""
    target = _site_packages(folder) / "engines"
    new, old = target.with_name("engines.new"), target.with_name("engines.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(_ENGINES_SOURCE, new, ignore=shutil.ignore_patterns("__pycache__"))
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _engines_digest() -> str:
    sha = hashlib.sha256()
    for path in sorted(_ENGINES_SOURCE.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            sha.update(path.relative_to(_ENGINES_SOURCE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _read(path: Path) -> Installed | None:
    try:
        entry = msgspec.json.decode(path.read_bytes(), type=Installed)
    except (OSError, msgspec.MsgspecError):
        return None
    return entry if entry.name == path.parent.name and _python(path.parent).exists() else None


def _write(path: Path, entry: Installed) -> None:
    unfinished = path.with_suffix(".tmp")
    unfinished.write_bytes(msgspec.json.encode(entry))
    unfinished.replace(path)

"""How a runtime is made: a virtual environment, hashed packages, our ``engines``, and a proof that it works."""

import asyncio
import hashlib
import importlib.util
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from app.errors import EngineUnavailable
from app.paths import resource
from app.workers.commands import Line, run
from engines import protocol

ENGINES_SOURCE = Path(protocol.__file__).resolve().parent
#: A PYTHONPATH of the daemon would put other packages before those of a runtime.
OWN_PACKAGES_ONLY = {"PYTHONPATH": ""}
#: What a new runtime must be able to do; prints the engine's version.
_SMOKE = """
import json, {module}, engines.protocol
from importlib import metadata
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
print(json.dumps(next(filter(None, map(version, {distributions!r})), None)))
"""
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


async def build(name: str, partial: Path, report: Report, log: Callable[[str], None]) -> Installed:
    """Make runtime ``name`` in the folder ``partial``; `owner` of it tells meanwhile which process works there.

    Raises `EngineUnavailable` (the hint has the remedy), `EngineFailed`. Cancelling ends what was started.
    """
    known, requirements = KNOWN[name], requirements_file(name)
    if not requirements.is_file():
        raise EngineUnavailable(f"{name} cannot be installed: this version has no package list for it")
    for tool, remedy in known.tools.items():
        if os.name == "posix" and not any(map(shutil.which, tool.split("|"))):
            raise EngineUnavailable(
                f"{name} is compiled here and {tool.partition('|')[0]} is missing",
                hint=remedy,
                details={"tool": tool},
            )
    owner = owner_file(partial)
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
    await asyncio.to_thread(copy_engines, partial)
    report(0.97, "checking that it works")
    smoke = _SMOKE.format(module=known.module, distributions=known.distributions)
    lines: list[str] = []
    await run(
        [str(python_of(partial)), "-P", "-c", smoke],
        on_line=lambda line: lines.append(line.text) if line.out else log(line.text),
        env=OWN_PACKAGES_ONLY,
        owner=owner,
        failure=f"{name} was installed and does not work",
    )
    entry = Installed(
        name=name,
        engine=known.engine,
        version=json.loads(lines[-1]),
        size_bytes=await asyncio.to_thread(_size_bytes, partial),
        requirements_sha256=file_digest(requirements),
        engines_sha256=engines_digest(),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    write_installed(partial / "runtime.json", entry)
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
        """What pip says itself begins a line; what its builds say is indented."""
        words = text.split()
        if text.startswith(("Collecting ", "Processing ")):
            found = words[1] if words[0] == "Collecting" else Path(words[1]).name.partition("-")[0]
            package = re.split(r"[=<>~!\[]", found)[0]
            self._say(min(self._progress + 0.01, 0.15), f"fetching {package}")
        elif text.startswith("Installing collected packages"):
            self._building_since = None
            self._say(0.95 if self._compiled else 0.6, "installing packages")
        elif words[:3] == ["Building", "wheel", "for"] and self._compiled and self._building_since is None:
            self._building_since = self._clock()
            self._say(0.15, f"compiling {words[3]}")
        elif self._building_since is not None and (step := build_step(text.strip())) is not None:
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


def build_step(text: str) -> tuple[int, int] | None:
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
    python = str(python_of(folder))
    return [sys.executable, "-m", "pip", "--python", python] if bundled else [python, "-m", "pip"]


def owner_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.pid")


def requirements_file(name: str) -> Path:
    try:
        return resource("requirements") / f"{name}.txt"
    except FileNotFoundError:
        return Path(f"{name}.txt")


def python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def site_packages(folder: Path) -> Path:
    if os.name == "nt":
        return folder / "Lib" / "site-packages"
    return folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def copy_engines(folder: Path) -> None:
    """By rename, so that a worker that starts meanwhile finds the old or the new."""
    target = site_packages(folder) / "engines"
    new, old = target.with_name("engines.new"), target.with_name("engines.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(ENGINES_SOURCE, new, ignore=shutil.ignore_patterns("__pycache__"))
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def engines_digest() -> str:
    sha = hashlib.sha256()
    for path in sorted(ENGINES_SOURCE.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            sha.update(path.relative_to(ENGINES_SOURCE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def write_installed(path: Path, entry: Installed) -> None:
    unfinished = path.with_suffix(".tmp")
    unfinished.write_bytes(msgspec.json.encode(entry))
    unfinished.replace(path)

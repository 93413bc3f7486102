"""The hashed requirement lists: complete, from nowhere in particular, and what pyproject.toml asks for."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LISTS = ROOT / "packaging" / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUNTIMES = sorted({path.stem for path in LISTS.glob("*.in")} - {"build"})
ENVIRONMENTS = {
    "base": [],
    "demo": ["desktop"],
    "demo-cuda": ["desktop"],
    "test": ["cpu", "desktop", "convert", "dev"],
}
#: The Pythons and systems that the lists are for.
PLACES = [
    {"python_version": python[:4], "python_full_version": python, "sys_platform": system, "os_name": os_name}
    for python in ("3.11.2", "3.12.1", "3.13.0")
    for system, os_name in (("linux", "posix"), ("win32", "nt"), ("darwin", "posix"))
]

Entries = list[tuple[Requirement, list[str]]]


def lines(name: str) -> Iterator[str]:
    """Logical lines: a backslash joins."""
    yield from (LISTS / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()


def entries(name: str) -> Entries:
    found = []
    for line in lines(name):
        requirement, *hashes = line.split(" --hash=")
        found.append((Requirement(requirement.strip()), [text.strip() for text in hashes]))
    return found


def installed(name: str, place: dict[str, str]) -> dict[str, Version]:
    """What the list ``name`` installs in ``place``."""
    found: dict[str, Version] = {}
    for requirement, _ in entries(name):
        if requirement.marker is None or requirement.marker.evaluate(place):
            key = canonicalize_name(requirement.name)
            assert key not in found, f"{key} twice"
            (pin,) = requirement.specifier
            found[key] = Version(pin.version)
    return found


def asked(extras: list[str]) -> list[Requirement]:
    texts = PROJECT["dependencies"] + [text for extra in extras for text in PROJECT["optional-dependencies"][extra]]
    return [Requirement(text) for text in texts]


@pytest.fixture(params=[*ENVIRONMENTS, *RUNTIMES])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_source_has_its_list() -> None:
    assert {path.stem for path in LISTS.glob("*.txt")} == {*ENVIRONMENTS, *RUNTIMES}


def test_every_package_is_pinned_and_hashed(name: str) -> None:
    assert entries(name)
    for requirement, hashes in entries(name):
        assert [pin.operator for pin in requirement.specifier] == ["=="], requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", text) for text in hashes), requirement


def test_no_list_names_a_place(name: str) -> None:
    """No index, host, link or path: packages come from where the user's own pip looks."""
    for path in (LISTS / f"{name}.txt", LISTS / f"{name}.in"):
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        assert not re.search(r"://|file:|@ |\b(?:www|[\w-]+)\.(?:org|com|net|io)\b|(?:^|\s)/", text, re.MULTILINE)
        assert not re.search(r"^\s*-(?!-hash=)", text, re.MULTILINE), "an option of pip"


def test_the_two_onnx_runtimes_never_meet(name: str) -> None:
    names = {canonicalize_name(requirement.name) for requirement, _ in entries(name)}
    assert len(names & {"onnxruntime", "onnxruntime-gpu", "onnxruntime-directml"}) <= 1


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place['sys_platform']}-{place['python_version']}")
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_has_what_pyproject_asks_for(environment: str, place: dict[str, str]) -> None:
    have = installed(environment, place)
    for requirement in asked(ENVIRONMENTS[environment]):
        if requirement.marker is None or requirement.marker.evaluate(place):
            assert requirement.specifier.contains(have[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_has_what_a_worker_imports(runtime: str) -> None:
    have, ours = installed(runtime, PLACES[0]), installed("base", PLACES[0])
    for needed in ("msgspec", "numpy", "psutil", "nvidia-ml-py"):
        assert have[needed] == ours[needed], "both sides of the process edge agree"
    for requirement in (Requirement(line) for line in source(runtime)):
        assert requirement.specifier.contains(have[canonicalize_name(requirement.name)]), requirement


def source(runtime: str) -> list[str]:
    text = (LISTS / f"{runtime}.in").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_demo_is_small() -> None:
    have = installed("demo", PLACES[0])
    assert "onnxruntime" in have and "pyside6-essentials" in have
    assert not {"llama-cpp-python", "torch", "scipy", "scikit-learn", "mypy"} & have.keys()
    assert len(have) < 55


def test_qt_is_the_one_that_does_not_abort() -> None:
    for place in PLACES:
        version = installed("demo", place)["pyside6-essentials"]
        assert version < Version("6.12") or place["python_version"] != "3.11"

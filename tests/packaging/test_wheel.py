"""The wheel, in an environment that has nothing else, run from another folder."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LISTS = ROOT / "packaging" / "requirements"

pytestmark = pytest.mark.slow


def call(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-q")
    built = call(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, ROOT, cwd=folder)
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("pilothouse-*.whl")
    return found


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment with the wheel, its dependencies and one engine."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    folder = environment / ("Scripts" if sys.platform == "win32" else "bin")
    pip = (folder / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps")
    for what in (
        ("--require-hashes", "-r", LISTS / "base.txt"),
        ("--require-hashes", "-r", LISTS / "onnxruntime-cpu.txt"),
        (wheel,),
    ):
        done = call(*pip, *what, cwd=environment)
        assert done.returncode == 0, done.stderr
    return folder


def test_what_is_needed_at_run_time_is_inside(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "app/resources/models.json",
        "app/resources/docs.html",
        "app/resources/digits/digits.onnx",
        "app/resources/digits/held_out.npz",
        "app/resources/requirements/llamacpp-cpu.txt",
        "app/resources/requirements/onnxruntime-cpu.txt",
    } <= names
    assert any(name.startswith("ui/resources/") for name in names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"app", "engines", "ui"}


def test_its_licence_is_inside(wheel: Path) -> None:
    licences = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("licenses/LICENSE")]
    assert len(licences) == 1


def test_help_from_another_folder(programs: Path, tmp_path: Path) -> None:
    answer = call(programs / "pilothouse", "--help", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "deploy" in answer.stdout


def test_resources_are_found(programs: Path, tmp_path: Path) -> None:
    code = (
        "import app.paths, json; "
        "names = ['models.json', 'requirements', 'digits', 'docs.html']; "
        "print(json.dumps([str(app.paths.resource(name)) for name in names]))"
    )
    answer = call(programs / "python", "-c", code, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    for place in json.loads(answer.stdout):
        assert Path(place).exists()
        assert not Path(place).is_relative_to(ROOT)


def test_doctor_finds_the_engine(programs: Path, tmp_path: Path) -> None:
    answer = call(programs / "pilothouse", "doctor", "--json", cwd=tmp_path, PILOTHOUSE_DATA_DIR=str(tmp_path / "data"))
    assert answer.returncode == 0, answer.stderr
    report: dict[str, Any] = json.loads(answer.stdout)
    usable = {engine["name"] for engine in report["engines"] if engine["usable"]}
    assert "onnxruntime" in usable
    assert report["machine"]["cpu"]["logical_cores"] >= 1


def test_the_worker_is_installed(programs: Path, tmp_path: Path) -> None:
    answer = call(programs / "pilothouse-worker", "--help", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr

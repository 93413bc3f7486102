"""llama.cpp's chat templates and the recordings of their models, from the sdist of llama-cpp-python."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import platformdirs
import pytest

LOCK = Path(__file__).parents[2] / "packaging" / "requirements" / "llamacpp-cpu.txt"


@pytest.fixture(scope="session")
def llama_sources() -> Path:
    """The root of llama.cpp's tree: ``PILOTHOUSE_TEST_LLAMA_SOURCES``, or ``models/templates`` of it in the user's
    cache folder, made once."""
    if given := os.environ.get("PILOTHOUSE_TEST_LLAMA_SOURCES"):
        return Path(given)
    found = re.search(r"^llama-cpp-python==(\S+)", LOCK.read_text("utf-8"), re.MULTILINE)
    assert found
    root = platformdirs.user_cache_path("pilothouse-tests") / f"llama.cpp-{found[1]}"
    if not (root / "models" / "templates").is_dir():
        try:
            _extract(found[1], root)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"the package index does not give the sdist: {error.stderr.decode(errors='replace')[-200:]}")
    return root


def _extract(version: str, root: Path) -> None:
    folder = root.parent / f"sdist-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
    command += ["--no-binary", "llama-cpp-python", "--dest", str(folder), f"llama-cpp-python=={version}"]
    subprocess.run(command, check=True, capture_output=True, timeout=900)
    (archive,) = folder.glob("*.tar.gz")
    templates = folder / "templates"
    templates.mkdir()
    with tarfile.open(archive) as sdist:
        for member in sdist:
            if re.search(r"/models/templates/[^/]+\.jinja$", member.name) and (source := sdist.extractfile(member)):
                (templates / Path(member.name).name).write_bytes(source.read())
    (root / "models").mkdir(parents=True, exist_ok=True)
    templates.replace(root / "models" / "templates")
    archive.unlink()
    folder.rmdir()

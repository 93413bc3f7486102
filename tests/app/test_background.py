"""Finding the daemon of a data directory, and what is said when none can be started."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app import background
from app.client import ClientError
from app.paths import DataDir
from app.settings import Settings
from tests.support.scripted_daemon import ScriptedDaemon


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path).create()


@pytest.fixture
def dead_pid() -> int:
    """The pid of a process that has just ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_running_daemon_is_found(data: DataDir, scripted_daemon: ScriptedDaemon):
    scripted_daemon.write_daemon_file(data.root)
    assert background.find(data) == background.Running(scripted_daemon.url, os.getpid(), "0.0.0")
    assert background.ensure(data, Settings()).url == scripted_daemon.url


def test_no_file_no_daemon(data: DataDir):
    assert background.find(data) is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"url": "http://127.0.0.1:1"}', '{"url":"x","pid":"y","version":1}']
)
def test_a_file_that_cannot_be_read_is_no_daemon(data: DataDir, content: str):
    data.daemon_file.write_text(content, encoding="utf-8")
    assert background.find(data) is None


def test_a_file_whose_process_is_gone_is_stale(data: DataDir, scripted_daemon: ScriptedDaemon, dead_pid: int):
    scripted_daemon.write_daemon_file(data.root, pid=dead_pid)
    assert background.find(data) is None
    assert scripted_daemon.asked == []  # somebody else's port is left alone


def test_a_file_whose_port_is_silent_is_stale(data: DataDir):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        entry = {"url": f"http://127.0.0.1:{silent.getsockname()[1]}", "pid": os.getpid(), "version": "1"}
        data.daemon_file.write_text(json.dumps(entry), encoding="utf-8")
        assert background.find(data) is None


def test_a_taken_port_is_seen():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not background.port_is_free("127.0.0.1", port)
    assert background.port_is_free("127.0.0.1", port)


def test_a_daemon_that_cannot_start_is_quoted(data: DataDir):
    data.settings.write_text("colour = 'red'\n", encoding="utf-8")
    with pytest.raises(ClientError) as caught:
        background.start(data, Settings(), timeout_s=20)
    assert "the daemon did not start" in caught.value.message and "unknown setting colour" in caught.value.message
    assert "background.log" in caught.value.hint

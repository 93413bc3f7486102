"""Long commands: heard, failed, and ended with everything they started."""

import asyncio
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from app.errors import EngineFailed
from app.workers.commands import end_tree, run

#: Starts a child, tells both pids, and waits for ever.
PARENT = """
import subprocess, sys, os
child = subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"],
                         stdout=subprocess.PIPE)
child.stdout.readline()
print(os.getpid(), child.pid, flush=True)
child.wait()
"""


async def test_lines_arrive_as_they_are_written_from_both_streams():
    lines = []
    await run(
        [sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr)"],
        on_line=lines.append,
        failure="it failed",
    )
    assert sorted(lines) == [("err", False), ("out", True)]


async def test_a_failure_carries_the_line_that_says_why():
    script = "import sys; print('ERROR: no matching package'); print('more words'); sys.exit(3)"
    with pytest.raises(EngineFailed, match="it failed: ERROR: no matching package") as caught:
        await run([sys.executable, "-c", script], on_line=lambda _: None, failure="it failed")
    assert caught.value.details["output"] == ["ERROR: no matching package", "more words"]


async def test_cancelling_ends_the_whole_tree():
    pids: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        run(
            [sys.executable, "-c", PARENT],
            on_line=lambda line: pids.set_result([*map(int, line.text.split())]),
            failure="",
        )
    )
    started = await asyncio.wait_for(pids, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in started if psutil.pid_exists(pid)], timeout=5)
    assert alive == []


async def test_the_next_daemon_ends_what_a_killed_one_left(tmp_path):
    owner = tmp_path / "x.pid"
    pids: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        run(
            [sys.executable, "-c", PARENT],
            on_line=lambda line: pids.set_result([*map(int, line.text.split())]),
            owner=owner,
            failure="ended",
        )
    )
    parent, child = await asyncio.wait_for(pids, 20)
    assert owner.read_text().split()[0] == str(parent)
    processes = [psutil.Process(parent), psutil.Process(child)]
    await asyncio.to_thread(_kill_children_as_a_stranger, owner)
    with pytest.raises(EngineFailed):
        await task
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def _kill_children_as_a_stranger(owner: Path) -> None:
    """In a process of its own: in this one, waiting for the child would take its exit status from asyncio."""
    script = f"from app.workers.commands import end_tree; from pathlib import Path; end_tree(Path({str(owner)!r}))"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_another_process_that_got_the_number_is_left_alone(tmp_path):
    owner = tmp_path / "x.pid"
    owner.write_text(f"{psutil.Process().pid} 1.0")
    end_tree(owner)  # we are still here
    owner.write_text("nonsense")
    end_tree(owner)
    end_tree(tmp_path / "gone.pid")

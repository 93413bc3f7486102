"""Long commands: heard line by line, and ended with everything they started."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from app.errors import EngineFailed

#: Lines of output that go into an error's details.
_TAIL = 20
_LINE_BYTES = 1 << 20


class Line(NamedTuple):
    text: str
    out: bool
    """From standard output; else from standard error."""


async def run(
    command: Sequence[str],
    *,
    on_line: Callable[[Line], None],
    failure: str,
    hint: str = "see the job's log",
    on_tick: Callable[[], None] = lambda: None,
    env: Mapping[str, str] | None = None,
    owner: Path | None = None,
    low_priority: bool = False,
) -> None:
    """Run ``command`` to its end. ``on_tick`` is called once a second.

    ``owner`` is a file that holds the process's identity while it runs, so that the next daemon can end what a
    killed one left (`end_tree`). Cancelling ends the whole tree of processes first.

    Raises `EngineFailed` with ``failure`` and the last lines when it does not exit with 0.
    """
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.BELOW_NORMAL_PRIORITY_CLASS if low_priority else 0
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {}), "PYTHONUNBUFFERED": "1"},
        limit=_LINE_BYTES,
        start_new_session=os.name == "posix",
        creationflags=flags,
    )
    tail: deque[str] = deque(maxlen=_TAIL)
    try:
        _claim(process.pid, owner, low_priority)

        async def listen(stream: asyncio.StreamReader | None, out: bool) -> None:
            assert stream is not None
            async for raw in stream:
                line = Line(raw.decode(errors="replace").rstrip(), out)
                tail.append(line.text)
                on_line(line)

        async def ticks() -> None:
            while True:
                await asyncio.sleep(1)
                on_tick()

        clock = asyncio.create_task(ticks())
        try:
            await asyncio.gather(listen(process.stdout, True), listen(process.stderr, False))
            code = await process.wait()
        finally:
            clock.cancel()
    finally:
        if process.returncode is None:
            with contextlib.suppress(psutil.Error):
                _kill(psutil.Process(process.pid))
            await process.wait()
    if code != 0:
        errors = [line for line in tail if line.upper().startswith("ERROR")]
        reason = (
            errors[-1] if errors else next((line for line in reversed(tail) if line.strip()), f"exit status {code}")
        )
        raise EngineFailed(f"{failure}: {reason}", hint=hint, details={"output": list(tail)})


def _claim(pid: int, owner: Path | None, low_priority: bool) -> None:
    with contextlib.suppress(psutil.Error):  # it has ended already
        process = psutil.Process(pid)
        if owner is not None:
            owner.write_text(f"{pid} {process.create_time()}", encoding="ascii")
        if low_priority and os.name == "posix":
            process.nice(10)


def end_tree(owner: Path) -> None:
    """End the process that the ``owner`` file tells of, if it still runs, with all its children. Blocks briefly."""
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        number, created = owner.read_text(encoding="ascii").split()
        process = psutil.Process(int(number))
        if abs(process.create_time() - float(created)) < 0.01:  # not another one that got its number
            psutil.wait_procs(_kill(process), timeout=3)


def _kill(process: psutil.Process) -> list[psutil.Process]:
    everyone = [*process.children(recursive=True), process]
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)  # also those whose parent has gone
    for one in everyone:
        with contextlib.suppress(psutil.Error):
            one.kill()
    return everyone

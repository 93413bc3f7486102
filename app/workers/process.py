"""One worker process, from its start to its end."""

import asyncio
import contextlib
import hmac
import logging
import os
import secrets
import socket
import subprocess
import sys
from collections import deque
from typing import Any

from app.errors import EngineFailed, PilothouseError
from app.schema.manage import Problem
from app.workers.client import WorkerClient
from app.workers.runtimes import Interpreter
from engines.protocol import Failed, Hello, Load, Ready

log = logging.getLogger(__name__)

#: Longest time for a language model to save what its next start would compute again.
UNLOAD_S = 10.0
#: Lines of standard error kept of each worker.
STDERR_LINES = 60

_SYMPTOMS = (
    (
        "out_of_memory",
        ("out of memory", "std::bad_alloc", "memoryerror", "failed to allocate", "cannot allocate memory"),
    ),
    (
        "missing_library",
        ("cannot open shared object file", "modulenotfounderror", "importerror", "dll load failed"),
    ),
    ("bad_model", ("invalid magic", "failed to load model", "invalid protobuf", "unsupported model")),
)
_HINTS = {
    "out_of_memory": "close other programs, choose a smaller quantisation, or lower context_tokens or sequences",
    "missing_library": "run `pilothouse doctor`, then install the runtime it names",
    "bad_model": "check that the file is complete and of the right format",
    "crash": "it is restarted by itself; if it goes on, `pilothouse status` shows its last words",
}


def classify(exit_code: int | None, stderr: list[str]) -> Problem:
    """The end of a worker, as an error that a user can act on.

    ``exit_code`` is negative for a signal. ``code``: ``out_of_memory``, ``missing_library``, ``bad_model``, ``crash``.
    """
    text = "\n".join(stderr).lower()
    code = next((code for code, words in _SYMPTOMS if any(word in text for word in words)), "crash")
    last = next((line for line in reversed(stderr) if line.strip()), "")
    if exit_code is not None and exit_code < 0:
        how = f"the worker was ended by signal {-exit_code}"
        if exit_code == -9 and code == "crash":
            how += " (killed from outside, or by the system when memory ran out)"
    else:
        how = f"the worker ended with status {exit_code}"
    message = f"{how}: {last.strip()}" if last else how
    return Problem(
        code=code, message=message, hint=_HINTS[code], details={"stderr": stderr[-20:], "exit_code": exit_code}
    )


class WorkerProcess:
    """Start with `start`; `ended` is set when the process is gone. Owned by one supervisor task."""

    def __init__(self) -> None:
        self.client: WorkerClient | None = None
        self.ready: Ready | None = None
        self.ended = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._control: asyncio.Queue[Any] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def start(self, interpreter: Interpreter, load: Load, timeout_s: float) -> Ready:
        """Spawn, shake hands, load. Raises `EngineFailed` with the worker's own words; then nothing is left of it."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._start(interpreter, load)
        except TimeoutError:
            await self.stop(grace_s=0)
            raise EngineFailed(
                f"the model did not load within {timeout_s:.0f} s",
                hint="raise start_timeout_s, or try a smaller model",
                code="start_timeout",
            ) from None
        except BaseException:
            await self.stop(grace_s=0)
            raise

    async def _start(self, interpreter: Interpreter, load: Load) -> Ready:
        secret = secrets.token_hex(16)
        environment = {**os.environ, **interpreter.env, "PILOTHOUSE_WORKER_SECRET": secret, "PYTHONUNBUFFERED": "1"}
        command = [str(interpreter.python), "-P", "-m", "engines", "serve"]
        options: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.PIPE,
            "limit": 1 << 20,
        }
        loop = asyncio.get_running_loop()
        self.client = WorkerClient(self._control.put_nowait, lambda: self._control.put_nowait(None))
        client = self.client
        if sys.platform == "win32":
            listener = socket.create_server(("127.0.0.1", 0))
            listener.setblocking(False)
            environment["PILOTHOUSE_WORKER_ADDRESS"] = f"127.0.0.1:{listener.getsockname()[1]}"
            with listener:
                self._process = await asyncio.create_subprocess_exec(*command, env=environment, **options)
                self._watch()
                ours, _ = await loop.sock_accept(listener)
            ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.create_connection(lambda: client, sock=ours)
        else:
            ours, theirs = socket.socketpair()
            with theirs:
                environment["PILOTHOUSE_WORKER_FD"] = str(theirs.fileno())
                self._process = await asyncio.create_subprocess_exec(
                    *command, env=environment, pass_fds=(theirs.fileno(),), **options
                )
            self._watch()
            ours.setblocking(False)
            await loop.create_unix_connection(lambda: client, sock=ours)
        hello = await self._message()
        if not isinstance(hello, Hello) or not hmac.compare_digest(hello.secret, secret):
            raise EngineFailed("the worker did not identify itself", code="crash")
        client.send(load)
        answer = await self._message()
        if isinstance(answer, Failed):
            raise EngineFailed(answer.message, hint=answer.hint or _HINTS.get(answer.code, ""), code=answer.code)
        if not isinstance(answer, Ready):
            raise EngineFailed("the worker answered out of turn", code="crash")
        self.ready = answer
        return answer

    async def _message(self) -> Any:
        message = await self._control.get()
        if message is None:  # it hung up: its last words are on standard error
            await self.ended.wait()
            problem = self.problem()
            raise EngineFailed(problem.message, hint=problem.hint, code=problem.code, details=problem.details)
        return message

    def problem(self) -> Problem:
        """Why it ended; only after `ended`."""
        return classify(self._process.returncode if self._process else None, list(self._stderr))

    def _watch(self) -> None:
        self._tasks = [asyncio.create_task(self._read_stderr())]

    async def _read_stderr(self) -> None:
        assert self._process is not None and self._process.stderr is not None
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:
                continue  # longer than the buffer; asyncio dropped what it had of it
            if not line:
                break
            text = line.decode(errors="replace").rstrip()
            self._stderr.append(text[:1000])
            log.debug("worker %s: %s", self._process.pid, text)
        await self._process.wait()
        self.ended.set()
        if self.client is not None:
            self.client.close()

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _unload(self) -> None:
        if self.client is None or self.ready is None or self.ready.language is None:
            return
        try:
            async with asyncio.timeout(UNLOAD_S):
                unloaded = await self.client.unload()
        except TimeoutError:
            log.warning("worker %s did not save its prefixes within %.0f s", self.pid, UNLOAD_S)
        except PilothouseError as error:  # it is gone, or could not write: nothing that would hold up its end
            log.info("worker %s saved no prefixes: %s", self.pid, error.message)
        else:
            log.info("worker %s saved %d bytes of prefixes", self.pid, unloaded.saved_bytes)

    async def stop(self, grace_s: float = 3.0) -> None:
        """Let a language model save its prefixes (within `UNLOAD_S`), then close its standard input, which is the
        order to exit; kill it if it does not within ``grace_s``."""
        process = self._process
        if process is None:
            return
        await self._unload()
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(grace_s):
                await self.ended.wait()
        except TimeoutError:
            self.kill()
            await process.wait()
        if self.client is not None:
            self.client.close()
        for task in self._tasks:
            await asyncio.wait([task], timeout=1)
            task.cancel()

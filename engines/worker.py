"""The worker process: one socket, one engine, one loop."""

import contextlib
import importlib
import itertools
import os
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import psutil

from engines import protocol, tensors
from engines.card import Card
from engines.engine import EngineError, TensorEngine, TokenEngine
from engines.protocol import (
    Abort,
    Embed,
    Failed,
    Generate,
    Hello,
    Infer,
    Inferred,
    Load,
    Rank,
    Rejected,
    Tokenize,
    Unload,
)

if TYPE_CHECKING:
    from engines.steps.plan import Steps

#: name -> "module:class"; imported in the worker only, and only the one that is asked for.
ENGINES = {
    "echo": "engines.echo.engine:EchoEngine",
    "onnxruntime": "engines.onnxruntime.engine:OnnxRuntimeEngine",
    "llamacpp": "engines.llamacpp.loading:open_model",
}


#: Windows has no such flag, and its workers sleep at once.
MSG_DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)
#: How long a tensor worker stays awake after a batch of one row; ``linger_us`` of the deployment.
LINGER_US = 500


class Channel:
    """Length-prefixed frames over a stream socket. Reads many small frames with one system call."""

    def __init__(self, sock: socket.socket):
        self._socket = sock
        self._buffer = bytearray()

    def send(self, message: msgspec.Struct, parts: list[bytes | memoryview] | None = None) -> None:
        parts = parts or []
        size = sum(len(part) for part in parts)
        if size < 1 << 16:
            self._socket.sendall(b"".join([protocol.frame(message, size), *parts]))
            return
        self._socket.sendall(protocol.frame(message, size))
        for part in parts:
            self._socket.sendall(part)

    def receive(self, block: bool, linger_s: float = 0.0) -> Iterator[tuple[protocol.ToWorker, memoryview]]:
        """The frames that are here; with ``block`` at least one, for which it asks again and again during ``linger_s``
        before it sleeps. Raises `EOFError` when the daemon hung up."""
        frames = self._parse()
        while frames or block or select.select([self._socket], [], [], 0)[0]:
            yield from frames
            if frames:
                block = False
                frames = []
                continue
            data = self._linger(linger_s) or self._socket.recv(1 << 18)
            if not data:
                raise EOFError
            self._buffer += data
            frames = self._parse()

    def _linger(self, seconds: float) -> bytes:
        """To be woken from sleep costs a fifth of what answering a small model over HTTP takes in all."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            with contextlib.suppress(BlockingIOError):
                return self._socket.recv(1 << 18, MSG_DONTWAIT)
        return b""

    def _parse(self) -> list[tuple[protocol.ToWorker, memoryview]]:
        frames = []
        position, end = 0, len(self._buffer)
        view = memoryview(self._buffer)
        while end - position >= protocol.FRAME.size:
            header_size, payload_size = protocol.FRAME.unpack_from(view, position)
            stop = position + protocol.FRAME.size + header_size + payload_size
            if header_size > protocol.MAX_HEADER_BYTES:
                raise EOFError("not a frame")
            if stop > end:
                break
            start = position + protocol.FRAME.size
            header = protocol.to_worker.decode(view[start : start + header_size])
            # The buffer is compacted below, so the payload needs bytes of its own (read-only: engines may keep it).
            frames.append((header, memoryview(bytes(view[start + header_size : stop]))))
            position = stop
        view.release()
        if position:
            del self._buffer[:position]
        return frames


def _exit_with_daemon() -> None:
    """Block until standard input closes, then leave at once: no worker outlives its daemon, whatever it computes."""
    while os.read(0, 4096):
        pass
    os._exit(0)


def _connect() -> socket.socket:
    """The inherited end of a socket pair (POSIX), or loopback TCP (Windows)."""
    if fd := os.environ.pop("PILOTHOUSE_WORKER_FD", ""):
        return socket.socket(fileno=int(fd))
    host, _, port = os.environ.pop("PILOTHOUSE_WORKER_ADDRESS").rpartition(":")
    sock = socket.create_connection((host, int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def load_engine(load: Load) -> TensorEngine | TokenEngine:
    """Raises `EngineError`: ``missing_library`` when this runtime lacks the engine's packages."""
    try:
        module, _, name = ENGINES[load.engine].partition(":")
    except KeyError:
        raise EngineError("bad_setting", f"there is no engine {load.engine}") from None
    try:
        factory = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise EngineError(
            "missing_library",
            f"{load.engine} cannot be imported here: {error}",
            hint=f"pilothouse runtime install {load.engine}-cpu",
        ) from error
    return factory(load)


def serve() -> int:
    """Run until the daemon goes away. Returns the exit status."""
    secret = os.environ.pop("PILOTHOUSE_WORKER_SECRET")
    threading.Thread(target=_exit_with_daemon, daemon=True).start()
    channel = Channel(_connect())
    try:
        channel.send(Hello(secret, os.getpid()))
        message, _ = next(channel.receive(block=True))
        assert isinstance(message, Load)
        try:
            engine = load_engine(message)
            steps = _open_steps(message, engine)
        except EngineError as error:
            channel.send(Failed(error.code, error.message, error.hint))
            return 1
        except MemoryError:
            channel.send(Failed("out_of_memory", f"not enough memory to load {message.path}"))
            return 1
        channel.send(engine.ready)
        if engine.ready.language is not None:
            _serve_tokens(channel, engine)  # type: ignore[arg-type]
        else:
            linger_s = float(message.settings.get("linger_us", LINGER_US)) / 1e6 if MSG_DONTWAIT else 0.0
            _serve_tensors(channel, engine, steps, linger_s)  # type: ignore[arg-type]
    except (EOFError, ConnectionError):
        return 0
    return 0


def _open_steps(load: Load, engine: TensorEngine | TokenEngine) -> "Steps | None":
    """The declared steps of a tensor model, tried once; tells ``engine.ready`` of them. Raises `EngineError`."""
    ready = engine.ready
    if ready.signature is None or load.card == Card():
        return None
    from engines.steps.check import check

    check(load.card, ready.signature)
    if not load.card.item:
        return None
    from engines.steps.plan import Steps

    steps = Steps(load.card, Path(load.path).parent, ready.signature)
    steps.warm(engine.infer)  # type: ignore[union-attr]
    ready.items = steps.items
    ready.memory_bytes = psutil.Process().memory_info().rss
    return steps


class _Timed:
    """An engine's `infer` that notes how long it takes."""

    def __init__(self, engine: TensorEngine):
        self._infer = engine.infer
        self.compute_ns = 0
        self.ended_ns = 0

    def __call__(self, inputs: dict[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        started = time.perf_counter_ns()
        given = self._infer(inputs, outputs)
        self.ended_ns = time.perf_counter_ns()
        self.compute_ns += self.ended_ns - started
        return given


def _serve_tensors(channel: Channel, engine: TensorEngine, steps: "Steps | None", linger_s: float) -> None:
    alone = False
    while True:
        # A batch of one says that its client waits for the answer before it asks again: stay awake for that. Larger
        # ones say that the daemon is busy, and that it has better use for the processor.
        for message, payload in channel.receive(block=True, linger_s=linger_s if alone else 0.0):
            if not isinstance(message, Infer):
                continue
            alone = bool(message.inputs) and message.inputs[0].shape[:1] == [1]
            started_ns = time.perf_counter_ns()
            timed = _Timed(engine)
            try:
                inputs = tensors.unpack(message.inputs, payload)
                if message.items:
                    outputs = _run_items(steps, inputs, timed, message.outputs)
                else:
                    outputs = timed(inputs, message.outputs)
                headers, parts = tensors.pack(outputs)
                if (size := sum(map(len, parts))) > protocol.MAX_PAYLOAD_BYTES:
                    hint = "send fewer rows, or ask for fewer outputs"
                    raise EngineError("invalid_input", f"the answer has {size} bytes: too much for a message", hint)
            except EngineError as error:
                channel.send(Rejected(message.id, error.code, error.message, error.field, error.hint))
                continue
            except Exception as error:  # a defect of an engine must not end the worker
                traceback.print_exc()
                channel.send(Rejected(message.id, "engine_failed", f"{type(error).__name__}: {error}"[:400]))
                continue
            output_ns = time.perf_counter_ns() - timed.ended_ns
            input_ns = timed.ended_ns - started_ns - timed.compute_ns
            answer = Inferred(message.id, headers, timed.compute_ns // 1000, input_ns // 1000, output_ns // 1000)
            channel.send(answer, parts)


def _run_items(
    steps: "Steps | None", inputs: dict[str, np.ndarray], infer: _Timed, wanted: Sequence[str]
) -> dict[str, np.ndarray]:
    if steps is None:
        raise EngineError("invalid_input", "this model has no declared steps: it takes tensors", field="item")
    if list(inputs) != ["item"] or inputs["item"].dtype.kind != "O":
        raise EngineError("invalid_input", "items are one BYTES tensor named item", field="item")
    return steps.run(inputs["item"].reshape(-1).tolist(), infer, wanted)


def _serve_tokens(channel: Channel, engine: TokenEngine) -> None:
    step_ns = 0
    ended = 0
    while True:
        began = ended if engine.busy else 0
        embeds: list[Embed | Rank] = []
        for message, payload in channel.receive(block=not engine.busy):
            began = began or time.perf_counter_ns()
            if isinstance(message, Embed | Rank):
                embeds.append(message)
                continue
            try:
                _answer(channel, engine, message, payload)
            except EngineError as error:
                channel.send(Rejected(getattr(message, "id", 0), error.code, error.message, error.field, error.hint))
            except Exception as error:  # a defect of an engine must not end the worker
                traceback.print_exc()
                reason = f"{type(error).__name__}: {error}"[:400]
                channel.send(Rejected(getattr(message, "id", 0), "engine_failed", reason))
        if embeds:
            for answer, values in _embed(engine, embeds):
                channel.send(answer, [values.astype(np.float32, copy=False).tobytes()])
        if engine.busy:
            step = engine.step()
            ended = time.perf_counter_ns()
            step_ns += ended - began
            step.load.step_us = step_ns // 1000
            channel.send(step)


def _embed(
    engine: TokenEngine, requests: list[Embed | Rank]
) -> Sequence[tuple[protocol.Embedded | Rejected, np.ndarray]]:
    try:
        return engine.embed(requests)
    except Exception as error:  # a defect of an engine must not end the worker
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"[:400]
        return [(Rejected(request.id, "engine_failed", reason), np.empty(0)) for request in requests]


def _answer(channel: Channel, engine: TokenEngine, message: protocol.ToWorker, payload: memoryview) -> None:
    if isinstance(message, Generate):
        ends = list(itertools.accumulate(message.media, initial=0))
        engine.submit(message, [bytes(payload[a:b]) for a, b in itertools.pairwise(ends)])
    elif isinstance(message, Abort):
        engine.abort(message)
        if not engine.busy:  # no step will follow to say that nothing runs
            channel.send(engine.step())
    elif isinstance(message, Tokenize):
        channel.send(engine.tokenize(message))
    elif isinstance(message, Unload):
        channel.send(engine.unload())


def main() -> int:
    # A worker's words are on standard error; the last lines of it are what the daemon shows when it dies.
    sys.stdout = sys.stderr
    return serve()

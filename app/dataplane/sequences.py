"""Requests that belong together: what a model wants to see again is kept between them, in the daemon, so that any
replica can run the next one.

Requests of one id run one after the other, in order of arrival; those of other ids run meanwhile, in the same batches.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from app.dataplane import admission, arrays
from app.dataplane.inference import SequenceMark
from app.dataplane.tensors import Tensor
from app.errors import DeadlineExceeded, InvalidInput, QueueFull
from engines.protocol import Signature, TensorSpec

#: A state that a request leaves out may be as large as this: a few bytes of a request can claim very many rows.
MOST_STATE_BYTES = 64 << 20


class _Sequence:
    __slots__ = ("begun", "lock", "states", "used", "waiting")

    def __init__(self, now: float) -> None:
        self.lock = asyncio.Lock()
        self.states: dict[str, Tensor] = {}
        """By the name of the input that they become. Empty where the next one begins with zeros."""
        self.begun = False
        self.used = now
        self.waiting = 0


class Turn:
    """One request of a sequence, while no other one of it runs."""

    def __init__(self, sequences: "Sequences", sequence: _Sequence):
        self._sequences, self._sequence = sequences, sequence

    def fill(self, inputs: list[Tensor]) -> list[Tensor]:
        """The inputs with the states that they leave out. Raises `InvalidInput`."""
        given = {tensor.name for tensor in inputs}
        missing = [spec for spec in self._sequences.inputs if spec.name not in given]
        states = self._sequence.states
        return [*inputs, *(states.get(spec.name) or self._sequences.zeros(spec, inputs) for spec in missing)]

    def ask(self, outputs: list[str]) -> list[str]:
        """The outputs to run for: those that are wanted, and the states."""
        wanted = outputs or self._sequences.answers
        names = [*wanted, *(name for name in self._sequences.kept if name not in wanted)]
        return [] if len(names) == self._sequences.outputs else names

    def keep(self, answer: list[Tensor], outputs: list[str]) -> list[Tensor]:
        """Remember the states; the answer without what was not wanted."""
        wanted = outputs or self._sequences.answers
        by_name = {tensor.name: tensor for tensor in answer}
        for output, name in self._sequences.kept.items():
            tensor = by_name[output]
            # A copy: what came is a part of the answer to a whole batch.
            self._sequence.states[name] = Tensor(name, tensor.datatype, tensor.shape, bytes(tensor.data))
        self._sequence.begun = True
        return [by_name[name] for name in wanted]


class Sequences:
    """Of one tensor deployment. ``states`` is `Card.states`: input -> output. At most ``limit`` are remembered;
    those that were idle for ``idle_s`` are forgotten. At most ``queue_limit`` requests wait for their turn."""

    def __init__(
        self,
        signature: Signature,
        states: Mapping[str, str],
        *,
        idle_s: float,
        limit: int,
        queue_limit: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._signature, self._idle_s, self._limit, self._clock = signature, idle_s, limit, clock
        self.inputs = [spec for spec in signature.inputs if spec.name in states]
        self.kept = {output: name for name, output in states.items()}
        self.answers = [spec.name for spec in signature.outputs if spec.name not in self.kept]
        self.outputs = len(signature.outputs)
        self._active: dict[int | str, _Sequence] = {}
        self._queue_limit, self._queued = queue_limit, 0

    def __len__(self) -> int:
        return len(self._active)

    @asynccontextmanager
    async def turn(self, mark: SequenceMark, timeout_s: float) -> AsyncIterator[Turn]:
        """Wait until it is this request's turn. A request that fails changes nothing, and the sequence goes on.

        Raises `InvalidInput` for an id that is not active and is not started, `QueueFull`, `DeadlineExceeded`."""
        sequence = self._find(mark)
        sequence.waiting += 1
        try:
            await self._acquire(sequence, mark, timeout_s)
            try:
                if mark.start:
                    sequence.states, sequence.begun = {}, False
                elif not sequence.begun:
                    raise self._unknown(mark)
                yield Turn(self, sequence)
                if mark.end:
                    sequence.states, sequence.begun = {}, False
            finally:
                sequence.lock.release()
        finally:
            sequence.waiting -= 1
            sequence.used = self._clock()
            if self._active.get(mark.id) is sequence:
                del self._active[mark.id]
                if sequence.begun or sequence.waiting:
                    self._active[mark.id] = sequence  # at the end: `expire` looks from the one that is idle longest

    async def _acquire(self, sequence: _Sequence, mark: SequenceMark, timeout_s: float) -> None:
        if sequence.lock.locked() and self._queued >= self._queue_limit:
            raise QueueFull(
                f"{self._queue_limit} requests are waiting for their turn in a sequence already",
                hint="retry later, or raise queue_limit",
                field="queue_limit",
            )
        self._queued += 1
        try:
            async with asyncio.timeout(timeout_s):
                await sequence.lock.acquire()
        except TimeoutError:
            raise DeadlineExceeded(
                f"the requests before it in sequence {mark.id} took longer than its timeout", hint="retry later"
            ) from None
        finally:
            self._queued -= 1

    def _find(self, mark: SequenceMark) -> _Sequence:
        self.expire()
        sequence = self._active.get(mark.id)
        if sequence is None:
            if not mark.start:
                raise self._unknown(mark)
            if len(self._active) >= self._limit:
                raise QueueFull(
                    f"{self._limit} sequences are active already",
                    hint="end those that are done, or raise sequence_limit",
                    field="sequence_limit",
                )
            sequence = self._active[mark.id] = _Sequence(self._clock())
        return sequence

    def _unknown(self, mark: SequenceMark) -> InvalidInput:
        return InvalidInput(
            f"sequence {mark.id} is not active",
            hint=f"its first request sets sequence_start; it is forgotten after {self._idle_s:g} s without one",
            field="parameters.sequence_id",
        )

    def expire(self) -> None:
        """Forget those that have been idle too long."""
        limit = self._clock() - self._idle_s
        idle = []
        for key, sequence in self._active.items():
            if sequence.used >= limit:
                break
            if not sequence.waiting:
                idle.append(key)
        for key in idle:
            del self._active[key]

    def zeros(self, spec: TensorSpec, inputs: list[Tensor]) -> Tensor:
        """What the state ``spec`` begins with. A free axis is as long as the other inputs' axis of the same name; the
        batch is theirs, too; any other is 1. Raises `InvalidInput`."""
        lengths: dict[str, int] = {}
        rows = 1
        given = {tensor.name: tensor for tensor in inputs}
        for other in self._signature.inputs:
            tensor = given.get(other.name)
            if tensor is None or len(tensor.shape) != len(other.shape):
                continue  # admission will say so
            admission.check(other, tensor)  # now: what it claims decides how much memory is taken
            lengths |= {name: tensor.shape[at] for at, name in enumerate(other.axes) if name}
            if other.batch_axis >= 0:
                rows = tensor.shape[other.batch_axis]
        axes = spec.axes or [""] * len(spec.shape)
        shape = [
            size if size >= 0 else rows if at == spec.batch_axis else lengths.get(axes[at], 1)
            for at, size in enumerate(spec.shape)
        ]
        if arrays.size_bytes(spec.datatype, shape) > MOST_STATE_BYTES:
            raise InvalidInput(
                f"the state {spec.name} would begin as {shape}, which is too large",
                hint="send fewer rows at once",
                field="inputs",
            )
        return arrays.zeros(spec.name, spec.datatype, shape)

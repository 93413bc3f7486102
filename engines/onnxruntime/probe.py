"""Runs a model on plausible data to learn whether its requests may be put together, and warms it up by that."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from engines.engine import EngineError
from engines.onnxruntime.sample import VARIANTS, Sample, free_axes, row_size
from engines.onnxruntime.signature import Layout, layouts, why_no_layout
from engines.protocol import TensorSpec
from engines.tensors import BF16, from_bf16

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], Arrays]

#: No run is begun that would end later than this.
BUDGET_S = 5.0
#: What an axis of unknown length might be, the likeliest first: words, pixels, samples.
LENGTHS = (8, 1, 16, 64, 224, 512, 576, 32, 128, 256, 384, 640, 1024, 3000, 16000)
_MOST_LENGTHS = 48
#: Lengths with which one row has more elements than this are not tried.
_MOST_ELEMENTS = 1 << 22
_NUMBER = re.compile(r"(?<![\w.])\d+(?![\w.])")
#: Largest difference between a row in a batch and the same row alone, as a share of the largest value.
_TOLERANCE = {"f": 2e-3, "half": 2e-2, "quantized": 0.1}
#: A larger one is no matter of rounding, however badly conditioned the model is for data that mean nothing.
_SLIGHT = 0.05


@dataclass
class Found:
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    batched: bool = False
    notes: list[str] = field(default_factory=list)
    sample: Sample | None = None
    """Inputs that the model takes; `None` where none were found."""
    row_s: float = 0.0
    """What a run with one row takes, about."""


class _NotBatched(Exception):
    """Why, in words that follow "Requests are not batched: "."""

    def __init__(self, why: str, slight: bool = False):
        super().__init__(why)
        self.slight = slight


class _OutOfTime(Exception):
    pass


def probe(
    run: Run,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    quantized: bool = False,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.perf_counter,
) -> Found:
    """What runs with one, two and three rows show. ``run`` takes and gives arrays as an engine does and raises
    `EngineError`. ``quantized``: activations are rounded by the range that a whole batch has, so that rows come out a
    little different. Raises nothing: a model that cannot be run is served unbatched, with a note."""
    found = Found(list(inputs), list(outputs))
    runner = _Runner(run, budget_s, clock)
    why = ""
    try:
        for layout in layouts(inputs):
            try:
                sample, first = _search(runner, inputs, layout, quantized)
                found.sample, found.row_s = sample, runner.row_s
                found.outputs = _as_seen(outputs, first)
                axes, note = _confirm(runner, sample, first, quantized)
            except _NotBatched as reason:
                why = why or str(reason)
                continue
            found.inputs = [_with_axis(spec, layout[spec.name]) for spec in inputs]
            found.outputs = [_with_axis(spec, axes.get(spec.name, -1)) for spec in found.outputs]
            found.batched = True
            found.notes += [note] if note else []
            return found
        if found.sample is None:
            try:
                found.sample, first = _search(runner, inputs, {spec.name: -1 for spec in inputs}, quantized)
                found.outputs = _as_seen(outputs, first)
            except _NotBatched as reason:
                why = why or str(reason)
        why = why or why_no_layout(inputs)
    except _OutOfTime:
        why = f"the probe of the model was stopped after {runner.elapsed_s:.1f} s"
    found.row_s = runner.row_s
    found.notes.append(f"Requests are not batched: {why}.")
    return found


class _Runner:
    """Runs within the time that there is, and measures."""

    def __init__(self, run: Run, budget_s: float, clock: Callable[[], float]):
        self._run, self._budget_s, self._clock = run, budget_s, clock
        self._began = clock()
        self.row_s = 0.0

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._began

    def __call__(self, sample: Sample, rows: Sequence[int]) -> Arrays:
        """Raises `_OutOfTime` instead of beginning what would take too long, and `EngineError`."""
        started = self._clock()
        if started - self._began + self.row_s * len(rows) > self._budget_s:
            raise _OutOfTime
        answer = self._run(sample.feeds(rows))
        took = (self._clock() - started) / len(rows)
        self.row_s = min(self.row_s or took, took)
        return answer


def _search(runner: _Runner, inputs: Sequence[TensorSpec], layout: Layout, quantized: bool) -> tuple[Sample, Arrays]:
    """Lengths of the free axes with which one row runs, and its answer."""
    groups = free_axes(inputs, layout)
    waiting = [dict.fromkeys(groups, length) for length in LENGTHS] if groups else [{}]
    most = max(_MOST_ELEMENTS, row_size(inputs, layout, dict.fromkeys(groups, 1)))
    error = ""
    tried: list[dict[str, int]] = []
    kinds: set[str] = set()
    while waiting and len(tried) < _MOST_LENGTHS:
        lengths = waiting.pop(0)
        if lengths in tried or row_size(inputs, layout, lengths) > most:
            continue
        tried.append(lengths)
        for variant in VARIANTS if any(spec.datatype[0] in "IUB" for spec in inputs) else VARIANTS[:1]:
            sample = Sample(inputs, layout, lengths, variant, alike=quantized)
            try:
                return sample, runner(sample, [0])
            except EngineError as failed:
                error = error or failed.message
                # An error of a new kind is progress: what it says is worth more than the next length of the list.
                if (kind := _NUMBER.sub("#", failed.message)) not in kinds:
                    kinds.add(kind)
                    waiting = [*_hints(failed.message, lengths), *waiting]
    raise _NotBatched(f"the probe could not run the model ({error})")


def _hints(message: str, lengths: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """An error of shapes mostly says the length that would have fitted: "W: {20,10} K: 8"."""
    numbers = _NUMBER.findall(message.rpartition("Status Message:")[2])
    for number in dict.fromkeys(int(number) for number in numbers if 0 < int(number) <= 1 << 16):
        yield dict.fromkeys(lengths, number)
        if len(lengths) > 1:
            yield from ({**lengths, group: number} for group in lengths)


def _confirm(runner: _Runner, sample: Sample, first: Arrays, quantized: bool) -> tuple[dict[str, int], str]:
    """The axis of each output along which answers lie, and a note. Raises `_NotBatched`, or `_OutOfTime` before two
    rows were compared."""
    try:
        try:
            return _try_rows(runner, sample, first, quantized)
        except _NotBatched as reason:
            if not reason.slight:
                raise
            other = sample.second()
            return _try_rows(runner, other, runner(other, [0]), quantized)
    except EngineError as error:
        raise _NotBatched(f"a run with several rows fails ({error.message})") from None


def _try_rows(runner: _Runner, sample: Sample, first: Arrays, quantized: bool) -> tuple[dict[str, int], str]:
    alone = {0: first, 1: runner(sample, [1])}
    pair = runner(sample, [1, 0])
    axes = _follow(alone, pair, 2)
    _compare(runner, sample, alone, pair, [1, 0], axes, quantized)
    note = ""
    try:
        alone[2] = runner(sample, [2])
        three = runner(sample, [0, 1, 2])
    except _OutOfTime:
        note = f"One row takes {runner.row_s:.1f} s: batches were tried with two rows only."
    else:
        if _follow(alone, three, 3) != axes:
            raise _NotBatched("the outputs do not follow the number of rows")
        _compare(runner, sample, alone, three, [0, 1, 2], axes, quantized)
    if quantized:
        note += (
            " The model rounds by the range of a whole batch: an answer depends a little on what it is batched with."
        )
    return axes, note.strip()


def _follow(alone: Mapping[int, Arrays], batch: Arrays, rows: int) -> dict[str, int]:
    """For each output the axis that is as long as there are rows, with all else as for one row."""
    axes = {}
    for name, array in batch.items():
        shapes = {answer[name].shape for answer in alone.values() if name in answer}
        one = shapes.pop() if len(shapes) == 1 else ()
        fits = [k for k in range(array.ndim) if array.shape == (*one[:k], rows, *one[k + 1 :]) and one[k] == 1]
        if not fits:
            raise _NotBatched(
                f"output {name} does not follow the rows of the input: its shape is {list(array.shape)} for {rows} "
                f"rows and {list(one) if one or not shapes else 'not always the same'} for one"
            )
        axes[name] = fits[0]
    if any(set(answer) != set(batch) for answer in alone.values()):
        raise _NotBatched("an optional output is not always there")
    return axes


def _compare(
    runner: _Runner,
    sample: Sample,
    alone: Mapping[int, Arrays],
    batch: Arrays,
    rows: Sequence[int],
    axes: Mapping[str, int],
    quantized: bool,
) -> None:
    """Raises `_NotBatched` where a row of a batch is not what it is alone."""
    for name, array in batch.items():
        scale = max(_scale(answer[name]) for answer in alone.values())
        for position, row in enumerate(rows):
            together = array.take([position], axes[name])
            if equal(together, alone[row][name], scale, quantized):
                continue
            if not equal(runner(sample, [row])[name], alone[row][name], scale, quantized):
                raise _NotBatched(f"output {name} is another one each time that the same input is given")
            slight = equal(together, alone[row][name], scale, quantized, _SLIGHT)
            raise _NotBatched(f"rows of a batch influence each other (output {name})", slight)


def equal(batch: np.ndarray, alone: np.ndarray, scale: float, quantized: bool = False, least: float = 0.0) -> bool:
    """Whether the two agree as well as their type allows, or to ``least`` of ``scale``."""
    if batch.dtype.kind not in "fV":
        # A label may tip over where its probability is rounded.
        return quantized or bool(np.array_equal(batch, alone))
    half = batch.dtype.itemsize == 2
    share = max(_TOLERANCE["quantized" if quantized else "half" if half else "f"], least)
    return bool(np.allclose(_numbers(batch), _numbers(alone), rtol=share, atol=share * scale, equal_nan=True))


def _numbers(array: np.ndarray) -> np.ndarray:
    return from_bf16(array) if array.dtype == BF16 else array.astype(np.float64)


def _scale(array: np.ndarray) -> float:
    if array.dtype.kind not in "fV":
        return 0.0
    numbers = np.abs(_numbers(array))
    return float(np.max(numbers, where=np.isfinite(numbers), initial=0.0))


def _as_seen(outputs: Sequence[TensorSpec], answer: Arrays) -> list[TensorSpec]:
    """What a file says of its outputs is at times wrong; what came out is not."""
    seen = []
    for spec in outputs:
        shape = answer[spec.name].shape if spec.name in answer else spec.shape
        if len(shape) != len(spec.shape):
            seen.append(msgspec.structs.replace(spec, shape=[-1] * len(shape), axes=[]))
            continue
        free = [said if said == size else -1 for said, size in zip(spec.shape, shape, strict=True)]
        seen.append(msgspec.structs.replace(spec, shape=free))
    return seen


def _with_axis(spec: TensorSpec, axis: int) -> TensorSpec:
    shape = [-1 if index == axis else size for index, size in enumerate(spec.shape)]
    return msgspec.structs.replace(spec, shape=shape, batch_axis=axis)

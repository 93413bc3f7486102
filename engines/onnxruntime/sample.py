"""Plausible inputs for a model of which only the signature is known."""

import re
from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from engines.onnxruntime.signature import Layout, axis_name, may_be_empty
from engines.protocol import TensorSpec
from engines.tensors import DTYPES, to_bf16

#: Rows that differ; a batch of more repeats them.
ROWS = 3
#: What integers and texts are: of several kinds, all 0, all 1 (an index into one thing, a size that may not be 0).
VARIANTS = ("mixed", "zeros", "ones")
#: For a second look: other numbers, and integers of more kinds, which many models refuse.
SECOND = "second"
_TEXTS = {
    "mixed": (b"", b"a", b"0"),
    "second": (b"b", b"", b"1"),
    "zeros": (b"0", b"1", b"2"),
    "ones": (b"a", b"b", b"c"),
}
#: Rows have ranges of their own, so that what they leave in each other shows.
_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 4.0))
_SAMPLE_RATE = re.compile(r"^sr$|sampl\w*_?rate", re.IGNORECASE)


def free_axes(inputs: Sequence[TensorSpec], layout: Layout) -> list[str]:
    """The axes whose length has to be guessed: an equal name is one axis. Not the batch's, and not those that may be
    empty and therefore are."""
    groups = (
        _group(spec, axis)
        for spec in inputs
        for axis, size in enumerate(spec.shape)
        if size == -1 and axis != layout[spec.name]
    )
    return list(dict.fromkeys(group for group in groups if group))


def _group(spec: TensorSpec, axis: int) -> str:
    name = axis_name(spec, axis)
    if may_be_empty(spec) if not name else name.startswith("past") and "+" not in name:
        return ""
    return name or f"{spec.name}/{axis}"


def row_size(inputs: Sequence[TensorSpec], layout: Layout, lengths: Mapping[str, int]) -> int:
    """Elements of one row of all inputs together."""
    return sum(prod(_shape(spec, layout[spec.name], lengths)) for spec in inputs)


def _shape(spec: TensorSpec, batch_axis: int, lengths: Mapping[str, int]) -> list[int]:
    """Of one row."""
    return [
        size if size != -1 else 1 if axis == batch_axis else lengths.get(_group(spec, axis), 0)
        for axis, size in enumerate(spec.shape)
    ]


class Sample:
    """Rows of inputs; ``lengths`` are those of the axes that `free_axes` names."""

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        layout: Layout,
        lengths: Mapping[str, int],
        variant: str,
        alike: bool = False,
    ):
        """``alike``: all rows have one range."""
        self._layout = layout
        self._given = inputs, layout, lengths, alike
        random = np.random.default_rng(variant == SECOND)
        self._rows: dict[str, list[np.ndarray]] = {}
        for spec in inputs:
            axis = layout[spec.name]
            shape = _shape(spec, axis, lengths)
            count = ROWS if axis >= 0 else 1
            self._rows[spec.name] = [_values(spec, shape, row, variant, alike, random) for row in range(count)]

    def second(self) -> "Sample":
        """Other values of the same lengths."""
        inputs, layout, lengths, alike = self._given
        return Sample(inputs, layout, lengths, SECOND, alike)

    @property
    def row_bytes(self) -> int:
        return sum(rows[0].nbytes for rows in self._rows.values())

    def feeds(self, rows: Sequence[int]) -> dict[str, np.ndarray]:
        """Inputs of a batch that consists of these rows, each counted modulo `ROWS`."""
        feeds = {}
        for name, values in self._rows.items():
            if (axis := self._layout[name]) < 0:
                feeds[name] = values[0]
            else:
                feeds[name] = np.concatenate([values[row % ROWS] for row in rows], axis)
        return feeds


def _values(
    spec: TensorSpec, shape: Sequence[int], row: int, variant: str, alike: bool, random: np.random.Generator
) -> np.ndarray:
    if spec.datatype == "BYTES":
        texts = _TEXTS[variant]
        flat = np.empty(prod(shape), dtype=object)
        for index in range(len(flat)):
            flat[index] = texts[(index + row) % len(texts)]
        return flat.reshape(shape)
    if spec.datatype[0] in "FB" and spec.datatype != "BOOL":
        numbers = random.uniform(*_RANGES[0 if alike else row], shape)
        return to_bf16(numbers) if spec.datatype == "BF16" else numbers.astype(DTYPES[spec.datatype])
    if _SAMPLE_RATE.search(spec.name):
        return np.full(shape, 16000, DTYPES[spec.datatype])
    if variant == SECOND:
        bits = np.asarray(random.integers(0, 2 if spec.datatype == "BOOL" else 100, shape))
    elif variant == "mixed":
        bits = np.asarray(random.integers(0, 2, shape))
        bits[..., :1] = (row + 1) % 2
    else:
        bits = np.full(shape, int(variant == "ones"))
    return bits.astype(DTYPES[spec.datatype])

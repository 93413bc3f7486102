"""How requests of one signature share a batch: which can, how their inputs are joined, how the outputs are split."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence

from app.dataplane import arrays
from app.dataplane.tensors import Tensor, cut
from engines.protocol import Signature, TensorHeader, TensorSpec

#: Padded axes of up to this length share a batch; beyond it, those between two powers of two do, so that less than
#: half of a batch is padding.
SHORT = 8
_SHORT_BYTES = 64


class BatchMismatch(Exception):
    """What the engine gave for a batch does not follow its rows."""


class Layout:
    """``padding`` is `Card.padding`. An axis that some input has and for which it names no value is not padded."""

    def __init__(
        self,
        signature: Signature,
        max_batch_size: int,
        *,
        padding: Mapping[str, Mapping[str, float]] | None = None,
        items: bool = False,
    ):
        self.items = items
        inputs = signature.inputs
        self._axis = [spec.batch_axis for spec in inputs]
        self.batched = signature.batched and any(axis >= 0 for axis in self._axis)
        self.most = max_batch_size if self.batched else 1
        self._rows_at = next(((i, axis) for i, axis in enumerate(self._axis) if axis >= 0), (0, 0))
        self._shared = [i for i, axis in enumerate(self._axis) if axis < 0]
        self._fills = [_fills(spec, inputs, padding or {}) for spec in inputs]
        self._dynamic = [
            (i, at, at in self._fills[i])
            for i, spec in enumerate(inputs)
            for at, size in enumerate(spec.shape)
            if size == -1 and spec.batch_axis not in (at, -1)
        ]
        #: name of a padded axis -> where its length is read
        self._length_at = {
            inputs[i].axes[at]: (i, at) for i, fill in reversed(list(enumerate(self._fills))) for at in fill
        }
        self._by_bytes = all(axis in (0, -1) for axis in self._axis) and not self._length_at
        self._outputs = {spec.name: (spec.batch_axis, self._cuts(spec)) for spec in signature.outputs}
        #: Whether all requests for all outputs share one key, `None`.
        self.plain = not items and (not self.batched or (not self._dynamic and not self._shared))

    def _cuts(self, spec: TensorSpec) -> dict[int, str]:
        return {at: name for at, name in enumerate(spec.axes) if name in self._length_at and at != spec.batch_axis}

    def rows(self, inputs: Sequence[Tensor]) -> int:
        """1 where requests are not batched."""
        if not self.batched:
            return 1
        index, axis = self._rows_at
        return inputs[index].shape[axis]

    def key(self, inputs: Sequence[Tensor], outputs: Sequence[str]) -> Hashable:
        """Requests with equal keys can share a batch. They passed admission: names, types and fixed axes are equal."""
        if self.plain and not outputs:
            return None
        if not self.batched:
            return self.items, *outputs
        sizes = tuple(
            _length_class(inputs[i].shape[at]) if padded else inputs[i].shape[at] for i, at, padded in self._dynamic
        )
        shared = tuple((*inputs[i].shape, _digest(inputs[i].data)) for i in self._shared)
        return self.items, sizes, shared, *outputs

    def join(self, requests: Sequence[Sequence[Tensor]]) -> tuple[list[TensorHeader], list[bytes | memoryview]]:
        """The inputs of one batch. The requests have equal keys."""
        headers: list[TensorHeader] = []
        parts: list[bytes | memoryview] = []
        for index, first in enumerate(requests[0]):
            axis = self._axis[index]
            if axis < 0:
                headers.append(TensorHeader(first.name, first.datatype, first.shape, len(first.data)))
                parts.append(first.data)
            elif self._by_bytes or (axis == 0 and self._equal_lengths(index, requests)):
                rows = size = 0
                for request in requests:
                    tensor = request[index]
                    rows += tensor.shape[0]
                    size += len(tensor.data)
                    parts.append(tensor.data)
                headers.append(TensorHeader(first.name, first.datatype, [rows, *first.shape[1:]], size))
            else:
                joined = arrays.concatenate([request[index] for request in requests], axis, self._fills[index])
                headers.append(TensorHeader(joined.name, joined.datatype, joined.shape, len(joined.data)))
                parts.append(joined.data)
        return headers, parts

    def _equal_lengths(self, index: int, requests: Sequence[Sequence[Tensor]]) -> bool:
        shape = requests[0][index].shape
        return all(request[index].shape[at] == shape[at] for at in self._fills[index] for request in requests)

    def split(
        self, outputs: Sequence[Tensor], requests: Sequence[Sequence[Tensor]], rows: Sequence[int]
    ) -> list[list[Tensor]]:
        """The outputs of a batch, one list a request; ``rows`` counts each one's. Raises `BatchMismatch`."""
        answers: list[list[Tensor]] = [[] for _ in requests]
        total = sum(rows)
        lengths = {name: [request[i].shape[at] for request in requests] for name, (i, at) in self._length_at.items()}
        for output in outputs:
            axis, names = self._outputs.get(output.name, (0, {}))
            axis = max(axis, 0)
            if len(output.shape) <= axis or output.shape[axis] != total:
                raise BatchMismatch(f"output {output.name} has shape {output.shape} for {total} rows")
            # A model that does not keep the length has not the padding in its answer either.
            kept = {
                at: lengths[name] for at, name in names.items() if output.shape[at : at + 1] == [max(lengths[name])]
            }
            if axis == 0 and (not kept or all(min(own) == max(own) for own in kept.values())):
                pieces = cut(output, rows)
            else:
                pieces, start = [], 0
                for number, count in enumerate(rows):
                    own = {at: many[number] for at, many in kept.items()}
                    pieces.append(arrays.take(output, axis, start, start + count, own))
                    start += count
            for answer, piece in zip(answers, pieces, strict=True):
                answer.append(piece)
        return answers

    def part(self, inputs: Sequence[Tensor], start: int, stop: int, positions: list[int]) -> list[Tensor]:
        """Some of the rows of one request. ``positions``: of each input the byte at which they begin, where the first
        axis is that of the batch; they become those of the next part. To look for them each time would take as long as
        the square of the rows."""
        parts = []
        for index, (tensor, axis) in enumerate(zip(inputs, self._axis, strict=True)):
            if axis < 0:
                parts.append(tensor)
            elif axis == 0:
                [piece] = cut(tensor, [stop - start], positions[index])
                positions[index] += len(piece.data)
                parts.append(piece)
            else:
                parts.append(arrays.take(tensor, axis, start, stop))
        return parts

    def merge(self, answers: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """The answers to the parts of one request, in order, as one. Raises `BatchMismatch`."""
        merged = []
        for index, first in enumerate(answers[0]):
            axis = max(self._outputs.get(first.name, (0, {}))[0], 0)
            pieces = [answer[index] for answer in answers]
            inner = first.shape[:axis] + first.shape[axis + 1 :]
            for piece in pieces:
                if piece.shape[:axis] + piece.shape[axis + 1 :] != inner:
                    raise BatchMismatch(f"output {first.name} is {first.shape} for some rows, {piece.shape} for others")
            if axis == 0:
                shape = [sum(piece.shape[0] for piece in pieces), *first.shape[1:]]
                merged.append(Tensor(first.name, first.datatype, shape, b"".join(piece.data for piece in pieces)))
            else:
                merged.append(arrays.concatenate(pieces, axis))
        return merged


def _digest(data: bytes | memoryview) -> bytes:
    """``data``, or what stands for it: a key may be remembered for as long as the deployment lives."""
    return bytes(data) if len(data) <= _SHORT_BYTES else hashlib.sha256(data).digest()


def _length_class(length: int) -> int:
    return max(SHORT, 1 << (length - 1).bit_length())


def _fills(
    spec: TensorSpec, inputs: Sequence[TensorSpec], padding: Mapping[str, Mapping[str, float]]
) -> dict[int, float]:
    """Axis -> what fills it, of one input."""
    return {
        at: padding[name][spec.name]
        for at, name in enumerate(spec.axes)
        if name in padding
        and at != spec.batch_axis
        and spec.shape[at] == -1
        and all(other.name in padding[name] for other in inputs if name in other.axes)
    }

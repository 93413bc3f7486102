"""One request that waits for its answer, and the parts of one that is too large for a batch."""

import asyncio
from collections.abc import Hashable
from typing import Any

from app.dataplane.batching.layout import Layout
from app.dataplane.indices import renumbered
from app.dataplane.tensors import Tensor
from app.errors import PilothouseError


class Waiting:
    """``result`` gives the outputs. The times are seconds; those of the engine are of all batches it was part of."""

    __slots__ = (
        "alone", "answers", "arrived", "batch_rows", "bucket", "compute_s", "deadline", "first", "held", "input_s",
        "inputs", "key", "layout", "left", "level", "most", "number", "output_s", "outputs", "parent", "parts",
        "positions", "queue_s", "result", "rows",
    )  # fmt: skip

    def __init__(
        self,
        inputs: list[Tensor],
        outputs: list[str],
        layout: Layout,
        level: int,
        arrived: float,
        deadline: float,
        result: "asyncio.Future[list[Tensor]]",
    ):
        self.inputs, self.outputs, self.layout, self.level = inputs, outputs, layout, level
        self.arrived, self.deadline, self.result = arrived, deadline, result
        self.rows = self.left = layout.rows(inputs)
        self.key: Hashable = None if layout.plain and not outputs else layout.key(inputs, outputs)
        self.bucket: Any = None
        self.most = layout.most
        self.alone = False
        """It was in a batch that failed, and runs again by itself."""
        self.held: list[Tensor] | None = None
        """The answer, while an earlier request has none."""
        self.parent: Waiting | None = None
        self.number = self.first = self.parts = 0
        """Of a part, which it is, and its first row in the request; of a request, in how many parts it was sent."""
        self.positions: list[int] | None = None
        """Of a request that is sent in parts, where the next one begins: see `Layout.part`."""
        self.answers: dict[int, list[Tensor]] | None = None
        self.queue_s = -1.0
        """Until it was first sent; -1: it was not."""
        self.input_s = self.compute_s = self.output_s = 0.0
        self.batch_rows = 0

    def part(self, start: int, stop: int) -> "Waiting":
        """Some rows of this request as a request of its own; its answer is kept until all of them are here."""
        if self.positions is None:
            self.positions = [0] * len(self.inputs)
        part = Waiting(
            self.layout.part(self.inputs, start, stop, self.positions),
            self.outputs,
            self.layout,
            self.level,
            self.arrived,
            self.deadline,
            self.result,
        )
        part.key, part.parent, part.number, part.first = self.key, self, self.parts, start
        self.parts += 1
        return part

    def completed(self, outputs: list[Tensor]) -> list[Tensor] | None:
        """All outputs of the request that this is a part of, or `None` while other parts of it are missing. Raises
        `BatchMismatch`."""
        parent = self.parent
        assert parent is not None
        answers = parent.answers = parent.answers or {}
        answers[self.number] = outputs
        if parent.bucket is not None or len(answers) < parent.parts:
            return None
        return self.layout.merge([answers[number] for number in range(parent.parts)])

    def told(self, error: PilothouseError) -> PilothouseError:
        """``error`` by the numbers that items have in the request that this is a part of."""
        if self.parent is None or not self.layout.items:
            return error
        return renumbered(error, range(self.first, self.first + self.rows))

"""Tensor models with declared steps as the data plane sees them, answered by a function of the items: what a worker
computes is not in question here."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from app.dataplane.dataplane import Dataplane
from app.dataplane.inference import Ask, Inference
from app.dataplane.routing import Target
from app.dataplane.tensors import Tensor, pack_strings, unpack_strings
from engines.card import Card
from engines.protocol import Signature, TensorSpec

Answer = Callable[[list[bytes]], dict[str, Any]]
_NAMES = {"float32": "FP32", "float64": "FP64", "int32": "INT32", "int64": "INT64"}
TABLE = Signature([TensorSpec("x", "FP32", [-1, 4])], [TensorSpec("y", "FP32", [-1, 3])], labels=["r", "g", "b"])


def tensor(name: str, values: Any) -> Tensor:
    array = np.asarray(values)
    if array.dtype.kind in "US":
        return Tensor(name, "BYTES", list(array.shape), pack_strings([str(value) for value in array.ravel()]))
    return Tensor(name, _NAMES[str(array.dtype)], list(array.shape), memoryview(array.tobytes()))


class ItemModels(Dataplane):
    """``asked`` has the items of each request."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[bytes]] = []
        self._answers: dict[str, Answer] = {}

    def serve(self, route: str, card: dict[str, Any], answer: Answer, signature: Signature = TABLE) -> Target:
        """``answer`` takes the items of a request, and gives arrays by the names of the steps' outputs."""
        given = {name: tensor(name, array) for name, array in answer([b"[1, 2]"]).items()}
        items = Signature(
            [TensorSpec("item", "BYTES", [-1])],
            [TensorSpec(name, found.datatype, [-1, *found.shape[1:]]) for name, found in given.items()],
            batched=True,
        )
        target = Target(
            route, f"{route}-model", 1, "t", 7, timeout_s=30, engine="onnxruntime",
            card=msgspec.convert(card, Card), signature=signature, items=items,
            batcher=object(),  # type: ignore[arg-type] - that it can be asked
        )  # fmt: skip
        self._answers[route] = answer
        self.publish({**self.table, route: target})
        return target

    async def infer(self, route: str, ask: Ask) -> Inference:
        assert ask.items and [one.name for one in ask.inputs] == ["item"]
        given = unpack_strings(ask.inputs[0].data)
        assert ask.inputs[0].shape == [len(given)]
        self.asked.append(given)
        return Inference(self.find(route), [tensor(*one) for one in self._answers[route](given).items()])

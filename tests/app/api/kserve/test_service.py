"""What the protocol's operations ask of the neutral calls, and make of their answers."""

import numpy as np
import pytest

from app.api.kserve.parameters import Wanted
from app.api.kserve.service import Call, Service
from app.dataplane.dataplane import Dataplane
from app.dataplane.inference import Inference
from app.dataplane.routing import Target
from app.dataplane.tensors import Tensor, pack_strings, unpack_strings
from app.errors import InvalidInput
from app.events import Bus
from engines.protocol import Signature, TensorSpec
from tests.support.scripted_reconciler import ScriptedReconciler

TENSORS = Signature([TensorSpec("x", "FP32", [-1, 3], 0)], [TensorSpec("y", "FP32", [3, -1], 1)], batched=True)
ITEMS = Signature([TensorSpec("item", "BYTES", [-1], 0)], [TensorSpec("y", "FP32", [-1, 3], 0)], batched=True)
SCORES = np.array([[0, 1, 2], [5, 4, 3]], np.float32)


class Scores(Dataplane):
    """Answers tensors along the second axis and items along the first."""

    async def infer(self, route, ask):
        ask.items = ask.inputs[0].name == "item"
        values = SCORES if ask.items else SCORES.T
        return Inference(self.find(route), [Tensor("y", "FP32", [*values.shape], values.tobytes())])


@pytest.fixture
def service(tmp_path):
    dataplane = Scores()
    dataplane.publish({"m": Target("m", "m", 1, "", 0, signature=TENSORS, items=ITEMS, batcher=object())})
    service = Service(dataplane, ScriptedReconciler(Bus()), None, Bus(), tmp_path)
    yield service
    service.close()


@pytest.mark.parametrize(
    "given",
    [Tensor("x", "FP32", [2, 3], bytes(24)), Tensor("item", "BYTES", [2], pack_strings(["a", "b"]))],
    ids=["tensors", "items"],
)
async def test_the_classes_are_those_of_each_row(service, given):
    answer = await service.infer(Call("m", [given], [Wanted("y", classes=2)]))
    [classes] = answer.outputs
    assert classes.shape == [2, 2]
    assert unpack_strings(classes.data) == [b"2.000000:2", b"1.000000:1", b"5.000000:0", b"4.000000:1"]


async def test_an_output_is_asked_for_once(service):
    with pytest.raises(InvalidInput, match="asked for twice"):
        await service.infer(Call("m", [Tensor("x", "FP32", [2, 3], bytes(24))], [Wanted("y"), Wanted("y")]))

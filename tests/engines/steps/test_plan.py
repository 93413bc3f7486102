"""From a card and a signature to answers: how values reach a model and come back."""

import msgspec
import numpy as np
import pytest

from engines.card import Card
from engines.engine import EngineError
from engines.protocol import Signature, TensorSpec
from engines.steps.plan import Steps


def card(**fields):
    return msgspec.convert(fields, Card)


def signature(inputs, outputs, batched=True, **more):
    """``inputs``: name → (datatype, shape, batch axis)."""
    return Signature(
        inputs=[TensorSpec(name, *spec) for name, spec in inputs.items()],
        outputs=[TensorSpec(name, *spec) for name, spec in outputs.items()],
        batched=batched,
        **more,
    )


NUMBERS = signature({"x": ("FP32", [-1, 3], 0)}, {"y": ("FP32", [-1, 3], 0)}, labels=["red", "green", "blue"])


class Model:
    """Remembers what it was asked."""

    def __init__(self, function):
        self.function, self.asked = function, []

    def __call__(self, inputs, outputs):
        self.asked.append((inputs, list(outputs)))
        return self.function(**inputs)


def steps_of(declared, known=NUMBERS, folder=None):
    return Steps(declared, folder, known)


def test_rows_go_in_as_one_batch_and_named_classes_come_out(tmp_path):
    steps = Steps(card(item="row", after=[{"step": "softmax"}, {"step": "top_k", "k": 2}]), tmp_path, NUMBERS)
    model = Model(lambda x: {"y": x})
    answer = steps.run([b"[0, 1, 2]", b"[5, 0, 0]"], model)
    assert answer["label"].tolist() == [[b"blue", b"green"], [b"red", b"green"]]
    np.testing.assert_allclose(answer["score"][0], [0.66524, 0.24473], atol=1e-5)
    ((inputs, outputs),) = model.asked
    assert inputs["x"].shape == (2, 3) and inputs["x"].dtype == np.float32 and outputs == ["y"]
    assert [(spec.name, spec.datatype, spec.shape) for spec in steps.items.outputs] == [
        ("label", "BYTES", [-1, 2]),
        ("score", "FP32", [-1, 2]),
    ]
    assert steps.items.inputs == [TensorSpec("item", "BYTES", [-1], batch_axis=0)] and steps.items.batched

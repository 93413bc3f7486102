"""What a pipeline may be: every refusal names the field."""

from typing import Any

import msgspec
import pytest

from app.dataplane.pool import Pool
from app.dataplane.routing import Target
from app.deployments import pipelines
from app.errors import InvalidInput, NotReady
from app.schema.manage import Pipeline
from engines.protocol import Signature, TensorSpec


def signature(inputs: dict[str, Any], outputs: dict[str, Any], batched: bool = True) -> Signature:
    """``{name: (datatype, shape)}``."""

    def specs(tensors: dict[str, Any]) -> list[TensorSpec]:
        return [TensorSpec(name, datatype, shape, 0 if batched else -1) for name, (datatype, shape) in tensors.items()]

    return Signature(specs(inputs), specs(outputs), batched)


def target(route: str, found: Signature | None = None, **more: Any) -> Target:
    return Target(route, route, 1, "", 0, signature=found, why_not="" if found or more else "starting", **more)


SCALE = signature({"raw": ("FP32", [-1, 64])}, {"scaled": ("FP32", [-1, 64])})
DIGITS = signature({"image": ("FP32", [-1, 64])}, {"p": ("FP32", [-1, 10]), "label": ("INT64", [-1])})
JOIN = signature({"a": ("FP32", [-1, 10]), "b": ("FP32", [-1, 10])}, {"sum": ("FP32", [-1, 10])})
TEXTS = signature({"item": ("BYTES", [-1])}, {"embedding": ("FP32", [-1, 64])})
TABLE = {
    "scale": target("scale", SCALE),
    "digits": target("digits", DIGITS),
    "join": target("join", JOIN),
    "embed": target("embed", SCALE, items=TEXTS),
    "chat": target("chat", pool=Pool(1, 1)),
    "late": target("late"),
    "fixed": target("fixed", signature({"x": ("FP32", [1, 32])}, {"y": ("FP32", [1, 32])}, batched=False)),
}


def step(name: str, route: str, inputs: dict[str, str], outputs: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"name": name, "route": route, "inputs": inputs, "outputs": outputs, **more}


def pipeline(*steps: dict[str, Any], outputs: dict[str, str], inputs: Any = ()) -> Pipeline:
    return msgspec.convert({"steps": list(steps), "outputs": outputs, "inputs": list(inputs)}, Pipeline)


CHAIN = (
    step("prepare", "scale", {"raw": "pixels"}, {"scaled": "image"}),
    step("classify", "digits", {"image": "image"}, {"p": "p"}),
)


def check(found: Pipeline, uses: pipelines.Uses | None = None) -> Signature:
    return pipelines.check("pipe", found, TABLE, uses or {})


def refusal(found: Pipeline, uses: pipelines.Uses | None = None) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        check(found, uses)
    return caught.value


def test_what_a_chain_takes_and_gives_is_found():
    found = check(pipeline(*CHAIN, outputs={"probabilities": "p"}))
    assert found.inputs == [TensorSpec("pixels", "FP32", [-1, 64], 0)]
    assert found.outputs == [TensorSpec("probabilities", "FP32", [-1, 10], 0)]
    assert found.batched


def test_declared_inputs_and_any_order_of_steps():
    declared = [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}]
    found = check(pipeline(*reversed(CHAIN), inputs=declared, outputs={"p": "p", "image": "image"}))
    assert [spec.name for spec in found.inputs] == ["pixels"]
    assert [(spec.name, spec.shape) for spec in found.outputs] == [("p", [-1, 10]), ("image", [-1, 64])]


def test_one_value_for_two_steps_and_a_diamond():
    found = check(
        pipeline(
            step("a", "digits", {"image": "x"}, {"p": "pa"}),
            step("b", "digits", {"image": "x"}, {"p": "pb"}),
            step("sum", "join", {"a": "pa", "b": "pb"}, {"sum": "s"}),
            outputs={"s": "s"},
        )
    )
    assert [spec.name for spec in found.inputs] == ["x"]


def test_items_go_through_the_declared_steps():
    found = check(
        pipeline(step("embed", "embed", {"item": "text"}, {"embedding": "e"}, items=True), outputs={"e": "e"})
    )
    assert found.inputs == [TensorSpec("text", "BYTES", [-1], 0)]


def test_a_step_that_does_not_batch_makes_a_pipeline_that_does_not():
    assert not check(pipeline(step("one", "fixed", {"x": "x"}, {"y": "y"}), outputs={"y": "y"})).batched


A = CHAIN[0]
REFUSALS = {
    "no step": (pipeline(outputs={"x": "x"}), "pipeline.steps", "from 1 to"),
    "no output": (pipeline(A, outputs={}), "pipeline.outputs", "at least one"),
    "unknown route": (
        pipeline(step("a", "nowhere", {"raw": "x"}, {"scaled": "y"}), outputs={"y": "y"}),
        "pipeline.steps[0].route",
        "no route 'nowhere'",
    ),
    "language model": (
        pipeline(step("a", "chat", {"raw": "x"}, {"scaled": "y"}), outputs={"y": "y"}),
        "pipeline.steps[0].route",
        "language model",
    ),
    "itself": (
        pipeline(A, step("a", "pipe", {"raw": "x"}, {"scaled": "y"}), outputs={"y": "y"}),
        "pipeline.steps[1].route",
        "calls the pipeline itself",
    ),
    "unknown input": (
        pipeline(step("a", "scale", {"raw": "x", "row": "x"}, {"scaled": "y"}), outputs={"y": "y"}),
        "pipeline.steps[0].inputs.row",
        "has no input row",
    ),
    "input without a value": (
        pipeline(step("a", "join", {"a": "x"}, {"sum": "y"}), outputs={"y": "y"}),
        "pipeline.steps[0].inputs.b",
        "gets no value",
    ),
    "unknown output": (
        pipeline(step("a", "scale", {"raw": "x"}, {"scald": "y"}), outputs={"y": "y"}),
        "pipeline.steps[0].outputs.scald",
        "has no output scald",
    ),
    "step without output": (
        pipeline(step("a", "scale", {"raw": "x"}, {}), outputs={"x": "x"}),
        "pipeline.steps[0].outputs",
        "no output",
    ),
    "defined twice by steps": (
        pipeline(A, step("b", "scale", {"raw": "pixels"}, {"scaled": "image"}), outputs={"y": "image"}),
        "pipeline.steps[1].outputs.scaled",
        "defined twice: by step prepare and by step b",
    ),
    "defined by an input and a step": (
        pipeline(
            step("a", "scale", {"raw": "x"}, {"scaled": "x"}),
            inputs=[{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
            outputs={"x": "x"},
        ),
        "pipeline.steps[0].outputs.scaled",
        "defined twice: by an input",
    ),
    "input given twice": (
        pipeline(A, inputs=[{"name": "x", "datatype": "FP32", "shape": [1]}] * 2, outputs={"y": "image"}),
        "pipeline.inputs[1].name",
        "two inputs",
    ),
    "output never defined": (pipeline(A, outputs={"y": "imag"}), "pipeline.outputs.y", "imag is never defined"),
    "value never defined": (
        pipeline(
            *CHAIN,
            step("sum", "join", {"a": "p", "b": "q"}, {"sum": "s"}),
            inputs=[{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}],
            outputs={"s": "s"},
        ),
        "pipeline.steps[2].inputs.b",
        "q is never defined",
    ),
    "unused input": (
        pipeline(
            A,
            inputs=[
                {"name": "pixels", "datatype": "FP32", "shape": [-1, 64]},
                {"name": "more", "datatype": "FP32", "shape": [1]},
            ],
            outputs={"y": "image"},
        ),
        "pipeline.inputs[1].name",
        "not used",
    ),
    "types": (
        pipeline(
            step("a", "digits", {"image": "x"}, {"label": "l"}),
            step("b", "scale", {"raw": "l"}, {"scaled": "y"}),
            outputs={"y": "y"},
        ),
        "pipeline.steps[1].inputs.raw",
        "b.raw takes FP32, and a.label is INT64",
    ),
    "ranks": (
        pipeline(A, inputs=[{"name": "pixels", "datatype": "FP32", "shape": [-1, 8, 8]}], outputs={"y": "image"}),
        "pipeline.steps[0].inputs.raw",
        "takes shape [-1, 64]",
    ),
    "fixed lengths": (
        pipeline(*CHAIN, step("b", "digits", {"image": "p"}, {"p": "q"}), outputs={"q": "q"}),
        "pipeline.steps[2].inputs.image",
        "classify.p has [-1, 10]",
    ),
    "one value of two types": (
        pipeline(
            step("a", "scale", {"raw": "x"}, {"scaled": "y"}),
            step("b", "join", {"a": "x", "b": "x"}, {"sum": "z"}),
            outputs={"z": "z"},
        ),
        "pipeline.steps[1].inputs.a",
        "a.raw has [-1, 64]",
    ),
    "circle": (
        pipeline(
            step("a", "scale", {"raw": "y"}, {"scaled": "x"}),
            step("b", "scale", {"raw": "x"}, {"scaled": "y"}),
            outputs={"y": "y"},
        ),
        "pipeline.steps",
        "wait for each other",
    ),
    "two steps of one name": (pipeline(A, A, outputs={"y": "image"}), "pipeline.steps[1].name", "two steps"),
    "a name that is none": (
        pipeline(step("a b", "scale", {"raw": "x"}, {"scaled": "y"}), outputs={"y": "y"}),
        "pipeline.steps[0].name",
        "'a b' cannot be",
    ),
    "no declared steps": (
        pipeline(step("a", "scale", {"raw": "x"}, {"scaled": "y"}, items=True), outputs={"y": "y"}),
        "pipeline.steps[0].items",
        "no declared steps",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_name_the_field(case: str):
    found, field, words = REFUSALS[case]
    error = refusal(found)
    assert error.field == field
    assert words in error.message


def test_pipelines_of_pipelines_but_not_in_a_circle():
    assert check(pipeline(*CHAIN, outputs={"p": "p"}), {"digits": frozenset({"scale"})})
    error = refusal(pipeline(*CHAIN, outputs={"p": "p"}), {"digits": frozenset({"deep"}), "deep": frozenset({"pipe"})})
    assert error.field == "pipeline.steps[1].route"
    assert "calls digits, a pipeline that calls pipe" in error.message


def test_a_route_that_is_not_ready_has_no_signature_yet():
    with pytest.raises(NotReady, match="late is starting") as caught:
        check(pipeline(step("a", "late", {"x": "x"}, {"y": "y"}), outputs={"y": "y"}))
    assert caught.value.field == "pipeline.steps[0].route"


def test_what_keeps_a_declared_pipeline_from_serving():
    found = pipeline(*CHAIN, outputs={"p": "p"})
    assert isinstance(pipelines.obstacle("pipe", found, TABLE, {}), Signature)
    gone = pipelines.obstacle("pipe", found, {"scale": TABLE["scale"]}, {})
    assert isinstance(gone, NotReady)
    assert "step classify: there is no route digits" in gone.message
    starting = pipelines.obstacle("pipe", found, TABLE | {"scale": target("scale")}, {})
    assert isinstance(starting, NotReady)
    assert "step prepare: scale is starting" in starting.message
    other = pipelines.obstacle("pipe", found, TABLE | {"digits": target("digits", JOIN)}, {})
    assert isinstance(other, InvalidInput)

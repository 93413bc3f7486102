"""Running a pipeline, over a dataplane that a test scripts: order, time, errors."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from app.dataplane.dataplane import Dataplane
from app.dataplane.ensemble import Ensemble
from app.dataplane.inference import Ask, Inference
from app.dataplane.routing import Target
from app.dataplane.tensors import Tensor
from app.errors import DeadlineExceeded, InvalidInput, QueueFull
from app.monitoring.metrics import RouteMetrics
from app.schema.manage import Pipeline
from engines.protocol import Signature, TensorSpec

PIPE = Target("pipe", "pipe", 1, "", 0)


class Steps:
    """Stands for `Dataplane.infer`: each route waits until it is let go, and answers with its inputs joined."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.asks: dict[str, Ask] = {}
        self.cancelled: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.gates: dict[str, asyncio.Event] = {}

    def hold(self, *routes: str) -> None:
        self.gates |= {route: asyncio.Event() for route in routes}

    async def infer(self, route: str, ask: Ask) -> Inference:
        self.began.append(route)
        self.asks[route] = ask
        try:
            if route in self.gates:
                await self.gates[route].wait()
        except asyncio.CancelledError:
            self.cancelled.append(route)
            raise
        if route in self.errors:
            raise self.errors[route]
        data = route.encode() + b"(" + b",".join(bytes(tensor.data) for tensor in ask.inputs) + b")"
        outputs = [Tensor(name, "UINT8", [len(data)], data) for name in ask.outputs]
        return Inference(PIPE, outputs, queue_s=0.25, compute_s=1.0, total_s=2.0, batch_rows=3)


def pipeline(steps: list[tuple[str, list[str], str]], outputs: list[str]) -> Pipeline:
    """Steps as (route, values in, value out)."""
    found = [
        {"name": f"s-{route}", "route": route, "inputs": {f"i{n}": v for n, v in enumerate(ins)}, "outputs": {"o": out}}
        for route, ins, out in steps
    ]
    return msgspec.convert({"steps": found, "outputs": {f"out-{v}": v for v in outputs}}, Pipeline)


DIAMOND = pipeline([("join", ["l", "r"], "z"), ("left", ["y"], "l"), ("right", ["y"], "r"), ("top", ["x"], "y")], ["z"])


def run(steps: Steps, found: Pipeline, timeout_s: float = 60, **ask: Any) -> "asyncio.Task[Inference]":
    inputs = [Tensor("x", "UINT8", [1], b"x")]
    return asyncio.create_task(Ensemble(found).run(steps.infer, PIPE, Ask(inputs, **ask), inputs, timeout_s))


async def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come to be")


async def test_values_flow_through_a_diamond_whatever_the_order_of_its_steps():
    steps = Steps()
    answer = await run(steps, DIAMOND)
    assert [(t.name, bytes(t.data)) for t in answer.outputs] == [("out-z", b"join(left(top(x)),right(top(x)))")]
    assert answer.target is PIPE
    assert steps.began[0] == "top" and steps.began[-1] == "join"


async def test_branches_run_at_the_same_time_and_a_step_waits_for_all_it_takes():
    steps = Steps()
    steps.hold("left", "right")
    running = run(steps, DIAMOND)
    await until(lambda: {"left", "right"} <= set(steps.began))
    steps.gates["left"].set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert "join" not in steps.began
    steps.gates["right"].set()
    await running


async def test_each_step_tells_its_time_in_the_order_of_the_declaration():
    answer = await run(Steps(), DIAMOND)
    assert [(step.name, step.route, step.total_s, step.compute_s) for step in answer.steps] == [
        (f"s-{route}", route, 2.0, 1.0) for route in ("join", "left", "right", "top")
    ]
    assert (answer.queue_s, answer.compute_s, answer.batch_rows) == (1.0, 4.0, 3)


async def test_only_the_outputs_that_are_asked_for():
    found = pipeline([("a", ["x"], "y"), ("b", ["y"], "z")], ["y", "z"])
    answer = await run(Steps(), found, outputs=["out-y"])
    assert [tensor.name for tensor in answer.outputs] == ["out-y"]


async def test_the_first_error_ends_the_other_steps_and_names_its_own():
    steps = Steps()
    steps.hold("left", "right")
    steps.errors["left"] = QueueFull("full", hint="later", retry_after_s=7)
    running = run(steps, DIAMOND)
    await until(lambda: {"left", "right"} <= set(steps.began))
    steps.gates["left"].set()
    with pytest.raises(QueueFull, match=r"step s-left \(left\): full") as caught:
        await running
    assert steps.cancelled == ["right"]
    assert (caught.value.retry_after_s, caught.value.hint) == (7, "later")
    assert caught.value.details == {"step": "s-left", "route": "left"}
    assert "join" not in steps.began


async def test_the_kind_and_the_code_of_an_error_stay():
    steps = Steps()
    steps.errors["top"] = InvalidInput("no", field="inputs.a", code="odd")
    with pytest.raises(InvalidInput) as caught:
        await run(steps, DIAMOND)
    assert (caught.value.code, caught.value.field, caught.value.status) == ("odd", "inputs.a", 400)


async def test_a_caller_that_leaves_ends_what_runs():
    steps = Steps()
    steps.hold("top")
    ensemble, inputs = Ensemble(DIAMOND), [Tensor("x", "UINT8", [1], b"x")]
    running = asyncio.create_task(ensemble.run(steps.infer, PIPE, Ask(inputs), inputs, 60))
    await until(lambda: steps.began == ["top"])
    assert ensemble.in_flight == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert steps.cancelled == ["top"]
    assert ensemble.in_flight == 0


async def test_one_deadline_for_all_steps():
    steps = Steps()
    before = time.perf_counter()
    await run(steps, pipeline([("a", ["x"], "y"), ("b", ["y"], "z")], ["z"]), timeout_s=5)
    first, second = steps.asks["a"], steps.asks["b"]
    assert first.timeout_s is not None and second.timeout_s is not None
    ends = [first.arrived + first.timeout_s, second.arrived + second.timeout_s]
    assert ends[0] == pytest.approx(ends[1], abs=1e-6)
    assert 5 <= ends[0] - before < 6


async def test_a_step_is_not_begun_after_the_deadline():
    steps = Steps()
    with pytest.raises(DeadlineExceeded, match="step s-a"):
        await run(steps, pipeline([("a", ["x"], "y")], ["y"]), timeout_s=0)
    assert steps.began == []


async def test_whether_kept_answers_do_is_passed_on():
    steps = Steps()
    await run(steps, pipeline([("a", ["x"], "y")], ["y"]), cache=False)
    assert steps.asks["a"].cache is False


@pytest.mark.parametrize(("batched", "rows"), [(True, 4), (False, 1)])
async def test_a_pipeline_counts_its_requests_and_their_rows_as_a_model_does(monkeypatch, batched, rows):
    specs = [TensorSpec("rate", "INT64", [1]), TensorSpec("x", "UINT8", [2, -1], batch_axis=1)]
    metrics = RouteMetrics("pipe", "pipe", 1, "tensor", "pipeline")
    steps, signature = Steps(), Signature(specs, [TensorSpec("out-y", "UINT8", [-1])], batched=batched)
    found = Ensemble(pipeline([("top", ["x"], "y")], ["y"]))
    target = Target("pipe", "pipe", 1, "", 0, metrics=metrics, timeout_s=9, signature=signature, ensemble=found)
    dataplane = Dataplane()
    dataplane.publish({"pipe": target})
    run_steps = found.run
    monkeypatch.setattr(found, "run", lambda _, *more: run_steps(steps.infer, *more))
    for _ in range(2):
        await dataplane.infer(
            "pipe", Ask([Tensor("x", "UINT8", [2, 4], bytes(8)), Tensor("rate", "INT64", [1], bytes(8))])
        )
    assert (metrics.succeeded, metrics.batches, metrics.batch_rows) == (2, 2, 2 * rows)
    assert metrics.batch_sizes == {rows: (2, 2.0)}
    assert metrics.last_inference_ms > 0

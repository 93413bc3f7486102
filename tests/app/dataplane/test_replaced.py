"""Requests in the instant of a change: what a target that was replaced refuses is asked of the one that serves."""

import asyncio
from typing import Any

import pytest

from app.dataplane.dataplane import Dataplane
from app.dataplane.inference import Ask
from app.dataplane.pool import Pool
from app.dataplane.routing import Target
from app.dataplane.tensors import Tensor
from app.errors import NotReady, ReplicaLost
from app.monitoring.metrics import RouteMetrics
from engines.protocol import LanguageModel, SchedulerLoad, Signature, TensorSpec, Tokenize, Tokens

SIGNATURE = Signature([TensorSpec("x", "FP32", [1])], [TensorSpec("y", "FP32", [1])])
TALKS = LanguageModel(context_tokens=8, sequences=1, vocabulary=1, chat_template="chatml")


class Batcher:
    """Stands for a batcher: refuses with ``error``, or answers. ``submitted`` is called first."""

    def __init__(self, error: Exception | None = None, submitted: Any = lambda: None):
        self.error, self.submitted, self.asked = error, submitted, 0

    def submit(self, inputs: list[Tensor], outputs: list[str], timeout_s: float, **_: Any) -> Any:
        self.asked += 1
        self.submitted()
        if self.error is not None:
            raise self.error
        return _Waiting(inputs)


class _Waiting:
    queue_s = input_s = compute_s = output_s = 0.0
    batch_rows = rows = 1

    def __init__(self, inputs: list[Tensor]):
        self.result: asyncio.Future[list[Tensor]] = asyncio.get_running_loop().create_future()
        self.result.set_result([Tensor("y", "FP32", [1], inputs[0].data)])


def target(batcher: Any = None, **more: Any) -> Target:
    metrics = RouteMetrics("r", "m", 1, "tensor", "echo")
    return Target("r", "m", 1, "", 0, metrics, 5, signature=SIGNATURE, batcher=batcher, **more)


def ask() -> Ask:
    return Ask([Tensor("x", "FP32", [1], bytes(4))])


async def test_a_queue_that_was_closed_a_moment_ago_costs_no_request():
    dataplane = Dataplane()
    new = target(Batcher())
    old = target(Batcher(NotReady("closed"), submitted=lambda: dataplane.publish({"r": new})))
    dataplane.publish({"r": old})
    answer = await dataplane.infer("r", ask())
    assert answer.target is new
    assert (old.metrics.failed_total, new.metrics.failed_total, new.metrics.succeeded) == (0, 0, 1)


async def test_a_refusal_stays_one_where_nothing_has_taken_over():
    dataplane = Dataplane()
    batcher = Batcher(NotReady("closed"))
    same = target(batcher)
    dataplane.publish({"r": same})
    with pytest.raises(NotReady):
        await dataplane.infer("r", ask())
    assert batcher.asked == 1
    assert same.metrics.failures["REJECTED"] == 1


async def test_a_route_that_has_stopped_meanwhile_is_not_asked_again():
    dataplane = Dataplane()
    stopped = Target("r", "m", 1, "", 0, why_not="stopped")
    old = target(Batcher(NotReady("closed"), submitted=lambda: dataplane.publish({"r": stopped})))
    dataplane.publish({"r": old})
    with pytest.raises(NotReady, match="closed"):
        await dataplane.infer("r", ask())
    assert old.metrics.failures["REJECTED"] == 1


async def test_what_may_have_run_is_not_run_again():
    dataplane = Dataplane()
    new = target(Batcher())
    old = target(Batcher(ReplicaLost("died"), submitted=lambda: dataplane.publish({"r": new})))
    dataplane.publish({"r": old})
    with pytest.raises(ReplicaLost):
        await dataplane.infer("r", ask())
    assert new.batcher is not None and new.metrics.succeeded == 0


class Replica:
    """Stands for a worker of a language model."""

    sequences, lost, load = 0, False, SchedulerLoad()

    async def tokenize(self, request: Tokenize) -> Tokens:
        return Tokens(request.id, [7])


async def test_a_language_request_goes_to_the_pool_that_serves_now():
    dataplane = Dataplane()
    old, new = Pool(1, 8), Pool(1, 8)
    new.join(Replica())  # type: ignore[arg-type]
    dataplane.publish({"r": target(pool=old, language=TALKS)})
    waiting = asyncio.create_task(dataplane.tokenize("r", Tokenize(0, text="a")))  # no replica: it waits in the old one
    await asyncio.sleep(0)
    dataplane.publish({"r": target(pool=new, language=TALKS)})
    old.close(NotReady("replaced"))
    assert (await waiting).tokens == [7]


async def test_a_closed_pool_that_nothing_has_replaced_refuses():
    dataplane, pool = Dataplane(), Pool(1, 8)
    dataplane.publish({"r": target(pool=pool, language=TALKS)})
    pool.close(NotReady("stopping"))
    with pytest.raises(NotReady, match="stopping"):
        await dataplane.tokenize("r", Tokenize(0, text="a"))

"""Running a pipeline: each step as soon as what it takes is there, through the same call that clients use."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from app.dataplane.inference import Ask, Inference, StepTime
from app.dataplane.routing import Target
from app.dataplane.tensors import Tensor
from app.errors import DeadlineExceeded, PilothouseError
from app.schema.manage import Pipeline, PipelineStep
from engines.protocol import Signature

Infer = Callable[[str, Ask], Awaitable[Inference]]


def rows(signature: Signature, inputs: Sequence[Tensor]) -> int:
    """Of a request to a pipeline; ``inputs`` in the order of the signature. 1 where requests are not batched."""
    if not signature.batched:
        return 1
    axes = zip(signature.inputs, inputs, strict=True)
    return next((tensor.shape[spec.batch_axis] for spec, tensor in axes if spec.batch_axis >= 0), 1)


class Ensemble:
    """A pipeline that was checked, and how many requests are in it. Used from the event loop only."""

    def __init__(self, pipeline: Pipeline):
        self.pipeline = pipeline
        self.in_flight = 0

    async def run(self, infer: Infer, target: Target, ask: Ask, inputs: list[Tensor], timeout_s: float) -> Inference:
        """All steps, within ``timeout_s``; the first that fails ends the others. ``inputs`` are those of ``ask``,
        checked. Raises `PilothouseError` that names the step."""
        self.in_flight += 1
        try:
            return await _Run(self.pipeline, infer, ask, inputs, timeout_s).answer(target)
        finally:
            self.in_flight -= 1


class _Run:
    def __init__(self, pipeline: Pipeline, infer: Infer, ask: Ask, inputs: list[Tensor], timeout_s: float):
        self._pipeline, self._infer, self._ask = pipeline, infer, ask
        self._deadline = time.perf_counter() + timeout_s
        loop = asyncio.get_running_loop()
        self._values: dict[str, asyncio.Future[Tensor]] = {
            value: loop.create_future() for step in pipeline.steps for value in step.outputs.values()
        }
        for tensor in inputs:
            self._values[tensor.name] = loop.create_future()
            self._values[tensor.name].set_result(tensor)
        self._answers: dict[str, Inference] = {}

    async def answer(self, target: Target) -> Inference:
        try:
            async with asyncio.TaskGroup() as steps:
                for step in self._pipeline.steps:
                    steps.create_task(self._step(step))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        wanted = self._ask.outputs or list(self._pipeline.outputs)
        outputs = []
        for name in wanted:
            tensor = self._values[self._pipeline.outputs[name]].result()
            outputs.append(Tensor(name, tensor.datatype, tensor.shape, tensor.data))
        answers = [self._answers[step.name] for step in self._pipeline.steps]
        return Inference(
            target,
            outputs,
            queue_s=sum(answer.queue_s for answer in answers),
            input_s=sum(answer.input_s for answer in answers),
            compute_s=sum(answer.compute_s for answer in answers),
            output_s=sum(answer.output_s for answer in answers),
            batch_rows=max((answer.batch_rows for answer in answers), default=0),
            cached=all(answer.cached for answer in answers),
            steps=[
                StepTime(step.name, step.route, answer.total_s, answer.compute_s)
                for step, answer in zip(self._pipeline.steps, answers, strict=True)
            ],
        )

    async def _step(self, step: PipelineStep) -> None:
        inputs = []
        for name, value in step.inputs.items():
            tensor = await self._values[value]
            inputs.append(Tensor(name, tensor.datatype, tensor.shape, tensor.data))
        now = time.perf_counter()
        try:
            if now >= self._deadline:
                raise DeadlineExceeded("the pipeline took longer than its timeout", hint="retry later")
            ask = Ask(
                inputs,
                list(step.outputs),
                arrived=now,
                timeout_s=self._deadline - now,
                items=step.items,
                sequence=self._ask.sequence,
                cache=self._ask.cache,
            )
            answer = await self._infer(step.route, ask)
        except PilothouseError as error:
            raise _at(step, error) from error
        self._answers[step.name] = answer
        for tensor in answer.outputs:
            if tensor.name in step.outputs:
                self._values[step.outputs[tensor.name]].set_result(tensor)


def _at(step: PipelineStep, error: PilothouseError) -> PilothouseError:
    """``error``, saying in which step it was."""
    return type(error)(
        f"step {step.name} ({step.route}): {error.message}",
        hint=error.hint,
        field=error.field,
        details={**error.details, "step": step.name, "route": step.route},
        retry_after_s=error.retry_after_s,
        code=error.code,
    )

"""What the Open Inference Protocol and Triton's extensions can ask for: values in, values out, no transport."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from app.api.kserve import classification, metadata, parameters, statistics
from app.api.kserve.log_settings import Log
from app.api.kserve.parameters import Wanted
from app.api.kserve.repository import Repository
from app.api.kserve.shared_memory import Regions
from app.api.kserve.tracing import Tracing
from app.dataplane.dataplane import Dataplane
from app.dataplane.inference import Inference
from app.dataplane.items import labels
from app.dataplane.routing import Target
from app.dataplane.tensors import Tensor
from app.deployments.reconciler import Reconciler
from app.errors import InvalidInput, NotFound
from app.events import Bus
from app.registry.registry import Registry
from app.schema.kserve import ModelMetadata, ModelStatistics, ServerMetadata
from app.schema.manage import Deployment


class Call(msgspec.Struct):
    """One request to a model, decoded. ``inputs`` out of shared memory are read already (`Service.regions`)."""

    model: str
    inputs: list[Tensor]
    wanted: list[Wanted] = []
    """Empty: every output."""
    parameters: Mapping[str, Any] = {}
    id: str = ""
    version: str = ""
    """Empty: the one that is served."""
    arrived: float = msgspec.field(default_factory=time.perf_counter)
    timeout_s: float | None = None
    """What the transport knows of, beside the parameter."""


class Service:
    """Raises `PilothouseError` everywhere."""

    def __init__(self, dataplane: Dataplane, reconciler: Reconciler, registry: Registry, bus: Bus, trace_folder: Path):
        self._dataplane = dataplane
        self.repository = Repository(reconciler, registry, bus)
        self.regions = Regions()
        self.trace = Tracing(trace_folder)
        self.log = Log()

    def close(self) -> None:
        self.regions.unregister()
        self.trace.close()

    # --- what there is --------------------------------------------------------------------------------

    def target(self, model: str, version: str = "") -> Target:
        """Raises `RouteNotFound`, `NotReady`, or `NotFound` where another version is served."""
        target = self._dataplane.find(model)
        if version and version != str(target.version):
            raise NotFound(f"{model} serves version {target.version}, not {version}", field="version")
        return target

    def server_metadata(self) -> ServerMetadata:
        return metadata.server()

    def model_metadata(self, model: str, version: str = "") -> ModelMetadata:
        return metadata.model(self.target(model, version))

    def model_config(self, model: str, version: str = "") -> dict[str, Any]:
        target = self.target(model, version)
        return metadata.config(target, self._deployment(model))

    def _deployment(self, model: str) -> Deployment:
        return self.repository.deployment(model)

    def statistics(self, model: str = "", version: str = "") -> list[ModelStatistics]:
        """Of one tensor model, or of all that serve."""
        if model:
            target = self.target(model, version)
            metadata.signature(target)
            return [statistics.of(target)]
        table = self._dataplane.table
        return [statistics.of(table[route]) for route in sorted(table) if table[route].signature is not None]

    # --- settings -------------------------------------------------------------------------------------

    def check_model(self, model: str) -> None:
        """Whether there is such a route, ready or not."""
        if model and model not in self._dataplane.table:
            self._dataplane.find(model)

    # --- inference ------------------------------------------------------------------------------------

    def admit(self, model: str, arrived: float) -> None:
        """Before a request is decoded. Raises `QueueFull` where it would be refused anyway."""
        self._dataplane.admit(model, arrived)

    async def infer(self, call: Call) -> Inference:
        """The answer, its outputs as they are to be sent: classes where those are wanted, empty where the output was
        written to shared memory."""
        if call.version:
            self.target(call.model, call.version)
        ask = parameters.ask(call.inputs, call.wanted, call.parameters, call.arrived, call.timeout_s)
        if not call.wanted and not self.trace.active:
            return await self._dataplane.infer(call.model, ask)
        special = {output.name: output for output in call.wanted if output.classes or output.place}
        for output in special.values():
            if output.place:
                self.regions.check(output.place)
        queued = time.perf_counter()
        answer = await self._dataplane.infer(call.model, ask)
        if self.trace.active:
            self.trace.record(call.id, answer, call.arrived, queued)
        return replace(answer, outputs=self._dress(answer, special, ask.items)) if special else answer

    def refused(self, model: str, total_s: float = 0.0) -> None:
        """Count a request that was not even understood, so that the statistics of ``model`` add up."""
        if target := self._dataplane.table.get(model):
            target.metrics.failed("OTHER", total_s)

    def _dress(self, answer: Inference, special: Mapping[str, Wanted], items: bool) -> list[Tensor]:
        outputs = []
        for tensor in answer.outputs:
            output = special.get(tensor.name)
            if output is not None and output.place:
                self.regions.write(output.place, tensor.data)
                tensor = replace(tensor, data=b"")  # noqa: PLW2901
            elif output is not None:
                tensor = self._classify(answer.target, tensor, output.classes, items)  # noqa: PLW2901
            outputs.append(tensor)
        return outputs

    @staticmethod
    def _classify(target: Target, tensor: Tensor, classes: int, items: bool) -> Tensor:
        found = (target.items if items else None) or metadata.signature(target)
        axis = next((spec.batch_axis for spec in found.outputs if spec.name == tensor.name), -1)
        return classification.classify(tensor, classes, labels(target), axis if found.batched else -1)


def check_cuda() -> None:
    """Raises `InvalidInput`."""
    raise InvalidInput(
        "CUDA shared memory is not served", hint="use system shared memory, or send tensors with the request"
    )

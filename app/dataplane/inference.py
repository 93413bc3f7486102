"""One call of a tensor model, as every protocol asks for it, and its answer."""

import time
from dataclasses import dataclass

import msgspec

from app.dataplane.routing import Target
from app.dataplane.tensors import Tensor


@dataclass(slots=True)
class SequenceMark:
    """The request is one of several that belong together; ``id`` is a number or a text, not 0 and not empty."""

    id: int | str
    start: bool = False
    end: bool = False


class Ask(msgspec.Struct):
    """``outputs`` empty asks for all."""

    inputs: list[Tensor]
    """In any order."""
    outputs: list[str] = []
    arrived: float = msgspec.field(default_factory=time.perf_counter)
    """`time.perf_counter` of the request."""
    timeout_s: float | None = None
    """`None`: the deployment's."""
    priority: int = 0
    """1 is the most urgent; 0 is the deployment's default."""
    items: bool = False
    """The inputs are items (texts, images, …) for the declared steps, not tensors of the model."""
    sequence: SequenceMark | None = None
    cache: bool = True
    """Whether an answer that is kept may do."""


@dataclass(slots=True)
class StepTime:
    """One step of a pipeline, in seconds."""

    name: str
    route: str
    total_s: float
    compute_s: float


class Inference(msgspec.Struct):
    """An answer: outputs as raw tensors, and where the time went (seconds)."""

    target: Target
    outputs: list[Tensor]
    queue_s: float = 0.0
    input_s: float = 0.0
    """Before the model in the worker: unpacking and declared steps."""
    compute_s: float = 0.0
    output_s: float = 0.0
    total_s: float = 0.0
    batch_rows: int = 0
    cached: bool = False
    steps: list[StepTime] = []

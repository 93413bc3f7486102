"""From what a person draws or types to a tensor, and from tensors back to an answer. Pure."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, prod, sqrt
from typing import Any

from app.schema.manage import TensorMetadata
from ui import format

FLOATS = {"FP16", "FP32", "FP64", "BF16"}


@dataclass(frozen=True)
class ImageInput:
    """How an input takes a picture. Pads hold values rows × columns × channels from 0 to 1."""

    rows: int
    columns: int
    channels: int
    channels_first: bool
    low: float = 0.0
    high: float = 1.0

    def to_tensor(self, pad: "Sequence[float] | array[float]") -> list[float]:
        """Flat values in the model's order and range."""
        span = self.high - self.low
        scaled = [round(self.low + value * span, 5) for value in pad]
        if not self.channels_first or self.channels == 1:
            return scaled
        return [value for channel in range(self.channels) for value in scaled[channel :: self.channels]]

    def to_pad(self, tensor: Sequence[float]) -> list[float]:
        """The inverse of `to_tensor`."""
        span = (self.high - self.low) or 1.0
        values = [(value - self.low) / span for value in tensor]
        if not self.channels_first or self.channels == 1:
            return values
        plane = self.rows * self.columns
        return [values[channel * plane + at] for at in range(plane) for channel in range(self.channels)]


def image_input(meta: TensorMetadata, input_range: Sequence[float] | None = None) -> ImageInput | None:
    """How to draw for an input [N, 1|3, H, W] or [N, H, W, 1|3]; `None` where it is no picture."""
    if len(meta.shape) != 4 or meta.datatype not in FLOATS | {"UINT8"}:
        return None
    if input_range is not None and len(input_range) == 2:
        low, high = float(input_range[0]), float(input_range[1])
    else:
        low, high = (0.0, 255.0) if meta.datatype == "UINT8" else (0.0, 1.0)
    _, first, second, third = meta.shape
    if first in {1, 3} and second >= 4 and third >= 4:
        return ImageInput(second, third, first, True, low, high)
    if third in {1, 3} and first >= 4 and second >= 4:
        return ImageInput(first, second, third, False, low, high)
    return None


def concrete(shape: Sequence[int]) -> list[int]:
    """A shape with its free dimensions at one."""
    return [1 if size < 0 else size for size in shape]


def count(shape: Sequence[int]) -> int:
    return prod(concrete(shape))


def shape_text(meta: TensorMetadata) -> str:
    """``FP32 [batch, 1, 8, 8]``"""
    sizes = ["batch" if size < 0 and not at else "any" if size < 0 else str(size) for at, size in enumerate(meta.shape)]
    return f"{meta.datatype} [{', '.join(sizes)}]"


@dataclass(frozen=True)
class Answer:
    """``classes``: (name, share), most likely first. Where the outputs are no classes, ``summary`` tells of them."""

    classes: list[tuple[str, float]]
    summary: str = ""
    from_logits: bool = False


def read_answer(outputs: list[dict[str, Any]], labels: Sequence[str], top: int = 5) -> Answer:
    """``outputs`` as `/v2/…/infer` answers them. The output that is read as classes is a float vector with as many
    values as there are labels, or else one that sums to one."""
    for output in outputs:
        values = output.get("data") or []
        if output.get("datatype") not in FLOATS or len(values) < 2:
            continue
        total = sum(values)
        distribution = all(value >= -1e-6 for value in values) and abs(total - 1) < 1e-2
        if not distribution and len(values) != len(labels):
            continue
        shares = [float(value) for value in values] if distribution else softmax(values)
        ranked = sorted(range(len(shares)), key=lambda at: -shares[at])[:top]
        named = [(labels[at] if at < len(labels) else str(at), shares[at]) for at in ranked]
        return Answer(named, from_logits=not distribution)
    return Answer([], "\n".join(_summary(output) for output in outputs))


def softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    powers = [exp(value - top) for value in values]
    total = sum(powers)
    return [power / total for power in powers]


def _summary(output: dict[str, Any]) -> str:
    values = output.get("data") or []
    head = f"{output.get('name')}  {output.get('datatype')} {output.get('shape')}"
    if len(values) <= 16 or not all(isinstance(value, int | float) for value in values):
        shown = ", ".join(str(value) for value in values[:16])
        return f"{head}\n{shown}{' …' if len(values) > 16 else ''}\n"
    length = sqrt(sum(value * value for value in values))
    first = ", ".join(format.number(value, 4) for value in values[:8])
    return f"{head}\nlength {length:.4f}; begins {first} …\n"

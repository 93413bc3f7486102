"""What the parameters of a request mean, whichever protocol carried them. Unknown ones are ignored, as Triton does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.dataplane.inference import Ask, SequenceMark
from app.dataplane.tensors import Tensor
from app.errors import InvalidInput

#: The longest honest number: what a double holds exactly.
_MOST = 1 << 53


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes of a registered region of shared memory."""

    region: str
    offset: int
    size_bytes: int


@dataclass(slots=True)
class Wanted:
    """One output that is asked for. ``classes`` not 0: only the so many best classes of each row, as texts."""

    name: str
    classes: int = 0
    place: Place | None = None


def ask(
    inputs: list[Tensor], wanted: list[Wanted], parameters: Mapping[str, Any], arrived: float, timeout_s: float | None
) -> Ask:
    """The neutral call. ``timeout_s`` is what the transport knows of (a deadline of gRPC); the shorter one counts.
    Raises `InvalidInput` naming the parameter."""
    names = [output.name for output in wanted]
    if len(names) > 1 and len(set(names)) < len(names):
        raise InvalidInput("an output is asked for twice", field="outputs")
    call = Ask(inputs, names, arrived, timeout_s)
    if not parameters:
        return call
    if timeout_us := whole(parameters, "timeout"):
        call.timeout_s = min(timeout_us / 1e6, timeout_s or float("inf"))
    call.priority = whole(parameters, "priority")
    call.sequence = _sequence(parameters)
    return call


def whole(parameters: Mapping[str, Any], name: str, *, of: str = "", default: int = 0, most: int = _MOST) -> int:
    """A whole number from 0 to ``most``; ``of`` is the path to the parameters, for the error."""
    value = parameters.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        where = f"{of}parameters.{name}"
        unit = " of microseconds" if name == "timeout" else ""
        raise InvalidInput(f"{where} must be a whole number{unit} up to {most}, not {value!r}", field=where)
    return value


def flag(parameters: Mapping[str, Any], name: str, *, of: str = "", default: bool = False) -> bool:
    value = parameters.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        where = f"{of}parameters.{name}"
        raise InvalidInput(f"{where} must be true or false, not {value!r}", field=where)
    return value


def place(parameters: Mapping[str, Any], of: str) -> Place | None:
    """Where in shared memory a tensor lies, or `None` where it travels with the message. ``of`` is the path to the
    tensor: ``inputs.image.``."""
    region = parameters.get("shared_memory_region")
    if region is None:
        return None
    where = f"{of}parameters.shared_memory_region"
    if not isinstance(region, str):
        raise InvalidInput(f"{where} must be the name of a region, not {region!r}", field=where)
    if parameters.get("shared_memory_byte_size") is None:
        where = f"{of}parameters.shared_memory_byte_size"
        raise InvalidInput(f"{where} is missing", field=where)
    return Place(
        region,
        whole(parameters, "shared_memory_offset", of=of),
        whole(parameters, "shared_memory_byte_size", of=of),
    )


def wanted(name: str, parameters: Mapping[str, Any]) -> Wanted:
    if not parameters:
        return Wanted(name)
    of = f"outputs.{name}."
    output = Wanted(name, whole(parameters, "classification", of=of, most=1 << 31), place(parameters, of))
    if output.classes and output.place:
        raise InvalidInput(
            f"output {name}: classes are texts, which shared memory is not for",
            hint="leave out classification or shared_memory_region",
            field=f"{of}parameters",
        )
    return output


def _sequence(parameters: Mapping[str, Any]) -> SequenceMark | None:
    """Triton's ids are numbers that are not 0, or texts that are not empty."""
    value = parameters.get("sequence_id")
    if not isinstance(value, str):
        value = whole(parameters, "sequence_id", most=(1 << 64) - 1)
    if not value:
        return None
    if isinstance(value, str) and len(value) > 128:
        raise InvalidInput("parameters.sequence_id is longer than 128 characters", field="parameters.sequence_id")
    return SequenceMark(value, flag(parameters, "sequence_start"), flag(parameters, "sequence_end"))

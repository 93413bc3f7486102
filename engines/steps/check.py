"""Whether a card fits a model: pure, and before anything is loaded for it."""

from collections.abc import Iterable
from pathlib import PurePath

from engines.card import (
    BeforeStep,
    Card,
    Columns,
    Constant,
    Crop,
    DecodeAudio,
    DecodeImage,
    FileBytes,
    Normalize,
    Resize,
    TokenizeText,
    gives,
    takes,
)
from engines.engine import EngineError
from engines.protocol import Signature, TensorSpec

#: What the first value of each kind of item must go through.
_FIRST = {"image": DecodeImage, "audio": DecodeAudio}


def check(card: Card, signature: Signature) -> None:
    """Raises `EngineError` (``bad_setting``), whose message begins with the field: ``card.before[1].input: …``."""
    inputs = {spec.name: spec for spec in signature.inputs}
    outputs = {spec.name: spec for spec in signature.outputs}
    _states(card, inputs, outputs)
    for axis, fills in card.padding.items():
        for name in fills:
            spec = _known(f"card.padding.{axis}", name, inputs, "input")
            if spec.axes and axis not in spec.axes:
                raise refuse(f"card.padding.{axis}", f"{name} has no axis of that name; it has {_names(spec.axes)}")
    if not card.item:
        if card.before or card.after:
            raise refuse("card.item", "steps need to know what an item is: text, image, audio, row or file")
        return
    names, last = values_before(card)
    missing = [name for name in inputs if name not in names and name not in card.states]
    if missing and (len(missing) > 1 or last in inputs):
        raise refuse("card.before", f"no step gives the input {missing[0]}; there are {_names(names)}")
    _after(card, list(outputs), names)


def _states(card: Card, inputs: dict[str, TensorSpec], outputs: dict[str, TensorSpec]) -> None:
    for name, output in card.states.items():
        field = f"card.states.{name}"
        state, following = _known(field, name, inputs, "input"), _known(field, output, outputs, "output")
        if state.datatype != following.datatype:
            raise refuse(field, f"{name} is {state.datatype}, {output} is {following.datatype}")
        if any(size == -1 for axis, size in enumerate(state.shape) if axis != state.batch_axis):
            raise refuse(field, f"{name} is {state.shape}: how large it begins is not known")


def values_before(card: Card) -> tuple[list[str], str]:
    """The names of all values that there are before the model, and of the last. Raises `EngineError`."""
    names = {"item": None}
    current = "item"
    decoded = False
    for place, step in enumerate(card.before):
        field = f"card.before[{place}]"
        _parameters(field, step)
        if isinstance(step, Constant):
            names[step.output] = None
            continue
        source = step.input or current
        if source not in names:
            raise refuse(f"{field}.input", f"no value is named {source}; there are {_names(names)}")
        first = _FIRST.get(card.item)
        if source == "item" and first and not isinstance(step, first) and not decoded:
            raise refuse(field, f"an {card.item} goes through {first.__struct_config__.tag} first")
        given = _given(step, source)
        decoded = decoded or "item" in given  # a step without another `output` puts what it gives in its place
        names.update(dict.fromkeys(given))
        current = given[0]
    return list(names), current


def _given(step: BeforeStep, source: str) -> list[str]:
    match step:
        case TokenizeText():
            return [step.ids, step.mask, step.types, step.positions]
        case Columns(into="inputs"):
            return [column.input or column.name for column in step.columns]
        case _:
            return [step.output or source]


def _parameters(field: str, step: BeforeStep) -> None:
    """What one step's own parameters must be beside their types."""
    match step:
        case Resize() | Crop():
            if not (step.size or (step.width and step.height)):
                raise refuse(f"{field}.size", "is missing (or width and height)")
            if isinstance(step, Resize) and step.mode == "shorter" and not step.size:
                raise refuse(f"{field}.size", "is what the shorter side becomes: width and height do not say it")
        case Normalize():
            if 0 in (step.std if isinstance(step.std, list) else [step.std]):
                raise refuse(f"{field}.std", "is 0")
        case TokenizeText():
            if PurePath(step.file).name != step.file or "\\" in step.file:
                raise refuse(f"{field}.file", "is the name of a file beside the model, without a folder")
        case Constant():
            if not step.output:
                raise refuse(f"{field}.output", "is missing: a constant needs a name")
            if step.shape and isinstance(step.value, list):
                raise refuse(f"{field}.shape", "is for one number; a list has its own")
        case Columns():
            if not step.columns:
                raise refuse(f"{field}.columns", "is missing")
            for place, column in enumerate(step.columns):
                if (column.type == "category") != bool(column.categories):
                    raise refuse(f"{field}.columns[{place}].categories", "belong to columns of the type category")
                if column.type == "text" and step.into == "matrix":
                    raise refuse(f"{field}.columns[{place}].type", "a matrix holds no texts: use into inputs")
                if column.scale == 0:
                    raise refuse(f"{field}.columns[{place}].scale", "is 0")
            if len({column.name for column in step.columns}) < len(step.columns):
                raise refuse(f"{field}.columns", "have the same name twice")
        case FileBytes():
            if not step.begin + step.middle + step.end:
                raise refuse(f"{field}.begin", "is missing (or middle, or end)")


def _after(card: Card, outputs: list[str], before: list[str]) -> None:
    names, current = dict.fromkeys(outputs), outputs[0]
    for place, step in enumerate(card.after):
        field = f"card.after[{place}]"
        for name in takes(step, current):
            if name not in names:
                where = "scores" if name == getattr(step, "scores", "") else "input"
                raise refuse(f"{field}.{where}", f"no value is named {name}; there are {_names(names)}")
        given = gives(step, step.input or current)
        names.update(dict.fromkeys(given))
        current = given[0]
        mask = getattr(step, "mask", None)
        if mask and mask != "attention_mask" and mask not in before:
            raise refuse(f"{field}.mask", f"no value is named {mask}; there are {_names(before)}")


def _known(field: str, name: str, specs: dict[str, TensorSpec], what: str) -> TensorSpec:
    if name not in specs:
        raise refuse(field, f"the model has no {what} {name}; it has {_names(specs)}")
    return specs[name]


def _names(names: Iterable[str]) -> str:
    return ", ".join(name for name in names if name) or "none"


def refuse(field: str, problem: str) -> EngineError:
    return EngineError(
        "bad_setting", f"{field}: {problem}", hint="correct the model's card and deploy again", field=field
    )

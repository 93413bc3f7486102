"""From an item to what a model takes. An item is a dict of the values it has so far, by name."""

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engines.card import (
    BeforeStep,
    Cast,
    Columns,
    Constant,
    Crop,
    DecodeAudio,
    DecodeImage,
    FileBytes,
    Frame,
    Layout,
    Length,
    MelSpectrogram,
    Normalize,
    Reshape,
    Resize,
    TokenizeText,
)
from engines.engine import EngineError
from engines.steps.feeds import limits, numbers, to_float32, within
from engines.steps.geometry import GEOMETRY
from engines.tensors import DTYPES

Item = dict[str, Any]
#: Under this name an item keeps how many tokens its text has.
TOKENS = " tokens"
#: Changes one item. Raises `ValueError`.
OneItem = Callable[[Item], None]


@dataclass(frozen=True)
class Together:
    """Changes all items of a batch at once. Raises `EngineError` (``invalid_input``) naming the item."""

    apply: Callable[[Sequence[Item]], None]


_json = msgspec.json.Decoder()


def unwrap(kind: str, data: bytes) -> Any:
    """The first value of an item. Raises `ValueError`."""
    match kind:
        case "text":
            try:
                return data.decode()
            except UnicodeDecodeError:
                raise ValueError("the text is not UTF-8") from None
        case "row":
            try:
                return _json.decode(data)
            except (msgspec.DecodeError, RecursionError) as error:
                raise ValueError(f"the row is not JSON: {error}") from None
        case _:
            return data


def build(
    step: BeforeStep, source: str, folder: Path, wanted: Collection[str], pad: bool
) -> tuple[OneItem | Together, str]:
    """What ``step`` does, and the name of what it gives first. ``wanted``: the names that the model and the steps after
    it take. ``pad``: whether the model can tell padding from text. Libraries are imported for the steps that need them.
    Raises `EngineError`."""
    target = step.output or source
    match step:
        case DecodeImage() | Resize() | Crop():
            return _image(step, source, target), target
        case TokenizeText():
            return _tokenize(step, source, folder, wanted, pad or step.pad_id >= 0), step.ids
        case Columns(into="inputs"):
            from engines.steps.tabular import TableRow

            inputs = TableRow(step).inputs
            return lambda item: item.update(inputs(item[source])), step.columns[0].input or step.columns[0].name
        case Constant():
            value = np.array(step.value, DTYPES[step.datatype])
            value = np.broadcast_to(value, step.shape or value.shape)
            return lambda item: item.__setitem__(step.output, value), source
        case _:
            function = _function(step)
            return lambda item: item.__setitem__(target, function(item[source])), target


def _function(step: BeforeStep) -> Callable[[Any], np.ndarray]:
    match step:
        case Layout():
            axes = (2, 0, 1) if step.to == "CHW" else (1, 2, 0)
            return lambda x: _ranked(x, 3).transpose(axes)
        case Normalize():
            return lambda x: normalize(step, x)
        case Cast():
            return lambda x: cast(step, numbers(x))
        case Reshape():
            return lambda x: numbers(x).reshape(step.shape)
        case Length():
            return lambda x: exact_length(step, numbers(x))
        case DecodeAudio() | Frame() | MelSpectrogram():
            return _sound(step)
        case Columns():
            from engines.steps.tabular import TableRow

            return TableRow(step).matrix
        case FileBytes():
            from engines.steps.tabular import file_bytes

            return lambda data: file_bytes(step, _file(data))
        case _:
            raise AssertionError(step)


def run(steps: Sequence[OneItem | Together], items: Sequence[Item]) -> None:
    """An item goes through as many steps as it can before the next one begins, so that of many photographs one at a
    time is held in full. Raises `EngineError` (``invalid_input``) naming the item."""
    for together, part in itertools.groupby(steps, lambda step: isinstance(step, Together)):
        chain = list(part)
        if together:
            for step in chain:
                step.apply(items)  # type: ignore[union-attr]
        else:
            each(items, *chain)  # type: ignore[arg-type]


def each(items: Sequence[Item], *chain: OneItem) -> None:
    for index, item in enumerate(items):
        try:
            for function in chain:
                function(item)
        except IndexError:
            raise unreadable(index, ValueError("the value has fewer axes than the steps count on")) from None
        except ValueError as error:
            raise unreadable(index, error) from None


def unreadable(index: int, error: Exception) -> EngineError:
    return EngineError("invalid_input", f"item[{index}]: {error}", field=f"item[{index}]")


def normalize(step: Normalize, values: Any) -> np.ndarray:
    """Raises `ValueError`."""
    array = to_float32(numbers(values))
    mean, std = np.asarray(step.mean, np.float32), np.asarray(step.std, np.float32)
    channels = max(mean.size, std.size)
    if channels > 1:
        shape = [1] * array.ndim
        shape[step.channel_axis] = channels
        if array.shape[step.channel_axis] != channels:
            raise ValueError(f"{channels} means, but {array.shape[step.channel_axis]} channels")
        mean, std = (x.reshape(shape) if x.ndim else x for x in (mean, std))
    return (array * np.float32(step.scale) - mean) / std


def cast(step: Cast, values: np.ndarray) -> np.ndarray:
    """Raises `ValueError` where one is beyond the datatype."""
    wanted = DTYPES[step.datatype]
    if wanted.kind in "iu" and values.size:
        low, high = limits(wanted)
        if not within(values, low, high):
            raise ValueError(f"a value is beyond {low} to {high}, the numbers of {step.datatype}")
    try:
        with np.errstate(over="raise"):
            return values.astype(wanted)
    except FloatingPointError:
        raise ValueError(f"a value is too large for {step.datatype}") from None


def exact_length(step: Length, values: np.ndarray) -> np.ndarray:
    lacking = step.size - values.shape[step.axis]
    if lacking > 0:
        widths = [(0, 0)] * values.ndim
        widths[step.axis] = (0, lacking) if step.side == "end" else (lacking, 0)
        return np.pad(values, widths, constant_values=np.array(step.fill, values.dtype))
    places: list[slice] = [slice(None)] * values.ndim
    places[step.axis] = slice(0, step.size) if step.side == "end" else slice(-lacking, None)
    return values[tuple(places)]


def _file(data: Any) -> bytes:
    if not isinstance(data, str | bytes):
        raise ValueError("a file is needed")
    return data.encode() if isinstance(data, str) else data


def _ranked(values: Any, rank: int) -> np.ndarray:
    array = numbers(values)
    if array.ndim != rank:
        raise ValueError(f"{array.ndim} axes where {rank} are needed")
    return array


def _image(step: DecodeImage | Resize | Crop, source: str, target: str) -> OneItem:
    from engines.steps import image
    from engines.steps.geometry import Geometry

    def apply(item: Item) -> None:
        if isinstance(step, DecodeImage):
            item[target], item[GEOMETRY] = image.decode(step, item[source])
            return
        pixels = _ranked(item[source], 3)
        size = (pixels.shape[1], pixels.shape[0])
        change = image.resize if isinstance(step, Resize) else image.crop
        item[target], item[GEOMETRY] = change(step, pixels, item.get(GEOMETRY) or Geometry(size, size))  # type: ignore[arg-type]

    return apply


def _sound(step: DecodeAudio | Frame | MelSpectrogram) -> Callable[[Any], np.ndarray]:
    from engines.steps import audio

    match step:
        case DecodeAudio():
            return lambda data: audio.decode(step, data)
        case Frame():
            return lambda sound: audio.frame(step, _ranked(sound, 1))
        case _:
            return lambda sound: audio.mel_spectrogram(step, _ranked(sound, 1))


def _tokenize(step: TokenizeText, source: str, folder: Path, wanted: Collection[str], pad: bool) -> Together:
    from engines.steps.text import TextTokenizer, length_groups

    tokenizer = TextTokenizer(step, folder, wanted)

    def apply(items: Sequence[Item]) -> None:
        if step.pairs:
            each(items, lambda item: item.__setitem__(source, tokenizer.pair(item[source])))
        encodings = tokenizer([item[source] for item in items])
        counts = [len(encoding.ids) for encoding in encodings]
        for index, count in enumerate(counts):
            if count > tokenizer.max_tokens and not step.truncate:
                problem = f"the text has more than the {tokenizer.max_tokens} tokens that the model takes"
                raise unreadable(index, ValueError(problem))
        for group in length_groups(counts, pad):
            arrays = tokenizer.arrays([encodings[index] for index in group])
            for place, index in enumerate(group):
                items[index].update({name: array[place] for name, array in arrays.items()})
                items[index][TOKENS] = counts[index]

    return Together(apply)

"""What is declared about a tensor model beside its file. A leaf: the daemon checks a card, a worker follows it.

Values flow through the steps by name. Each step takes `Step.input` (by default what the step before gave; the first
step before the model takes the item, the first one after it the model's first output) and gives `Step.output` (by
default the same name). The model takes the values that are named as its inputs; one input without such a value takes
the last one. What the steps after the model gave and no later one took is the answer. `engines.steps` runs
them.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"
]


class Step(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="step", tag="step"):
    """What all steps have."""

    input: str = ""
    """The value that it takes; empty: what the step before gave."""
    output: str = ""
    """The name of what it gives; empty: the name of what it takes."""


# --- images: a value is [height, width, channels], UINT8 until a step computes with it


class DecodeImage(Step, frozen=True, tag="decode_image"):
    """An image file (PNG, JPEG, WebP, GIF, BMP, TIFF, …), turned as its EXIF data says -> UINT8 [height, width,
    channels]. What is transparent is put on `background`."""

    mode: Literal["RGB", "BGR", "L"] = "RGB"
    """``L``: grey, one channel."""
    background: Annotated[int, Meta(ge=0, le=255)] = 255
    max_pixels: Positive = 64 << 20
    """A larger image is refused before it is unpacked."""


class Resize(Step, frozen=True, tag="resize"):
    """`stretch`: to the size, whatever the shape. `cover`: as large as covers the size, then cut at the centre.
    `letterbox`: as large as fits, centred, the rest `fill`. `shorter`: the shorter side becomes `size`, nothing is
    cut. Filters are Pillow's (a smaller image is made without aliasing)."""

    size: Natural = 0
    """Width and height, where they are equal."""
    width: Natural = 0
    height: Natural = 0
    mode: Literal["stretch", "cover", "letterbox", "shorter"] = "stretch"
    filter: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"
    fill: float = 0
    """Of letterbox; 114 is usual for detectors."""


class Crop(Step, frozen=True, tag="crop"):
    """A part of the image; beyond its edge is `fill`."""

    size: Natural = 0
    """Width and height, where they are equal."""
    width: Natural = 0
    height: Natural = 0
    left: int | None = None
    """Pixels from the left edge; `None`: centred."""
    top: int | None = None
    fill: float = 0


class Layout(Step, frozen=True, tag="layout"):
    """[height, width, channels] -> [channels, height, width], or back."""

    to: Literal["CHW", "HWC"] = "CHW"


# --- numbers


class Normalize(Step, frozen=True, tag="normalize"):
    """(value × scale - mean) / std -> FP32. Lists have one number a channel."""

    scale: float = 1.0
    """1/255 = 0.00392156862745098 makes 0 to 1 of bytes."""
    mean: float | list[float] = 0.0
    std: float | list[float] = 1.0
    channel_axis: int = -1
    """0 after `layout` CHW."""


class Cast(Step, frozen=True, tag="cast"):
    """To another datatype; numbers are cut off towards zero, not rounded."""

    datatype: Datatype = "FP32"


class Reshape(Step, frozen=True, tag="reshape"):
    """Of one item, without the axis of the batch; one length may be -1."""

    shape: tuple[int, ...] = (-1,)


class Length(Step, frozen=True, tag="length"):
    """Exactly `size` along `axis`: the end is cut, or filled with `fill`."""

    size: Positive = 1
    axis: int = -1
    fill: float = 0
    side: Literal["end", "start"] = "end"
    """Where it is cut or filled."""


class Constant(Step, frozen=True, tag="constant"):
    """The same for every item: a sample rate, a threshold that the model takes. `output` names it."""

    value: float | list[float] = 0.0
    shape: list[int] = []
    """Filled with `value`; empty: the shape of `value`."""
    datatype: Datatype = "FP32"


# --- text


class TokenizeText(Step, frozen=True, tag="tokenize"):
    """A text -> INT64 `ids`, `mask`, `types` and `positions`, [tokens] each, texts of like length padded
    together; the answer has their number as ``tokens``. What the model does not take is not computed for it."""

    file: str = "tokenizer.json"
    """Beside the model: a tokenizer as the `tokenizers` library saves it."""
    max_tokens: Natural = 0
    """0: what the file says, or 512."""
    truncate: bool = True
    """Whether a longer text is cut; else it is refused."""
    pairs: bool = False
    """The item is a JSON list of two texts, as a reranker takes: the query, the document. Of a pair the longer is
    cut."""
    special_tokens: bool = True
    """Begin and end as the tokenizer's own template says."""
    prefix: str = ""
    """Before each text, as some embedding models want: ``passage: ``."""
    pad_id: int = -1
    """-1: what the file says, or 0; and a model that takes no `mask` sees no padding."""
    pad_multiple: Positive = 1
    """Lengths are rounded up to a multiple of it."""
    pad_to_max: bool = False
    """Always `max_tokens` long, for models with a fixed length."""
    ids: str = "input_ids"
    mask: str = "attention_mask"
    """1 where there is a token, 0 where there is padding."""
    types: str = "token_type_ids"
    """1 in the second text of a pair."""
    positions: str = "position_ids"


# --- sound


class DecodeAudio(Step, frozen=True, tag="decode_audio"):
    """A WAV file (8, 16, 24, 32 bits or float), or raw samples -> FP32 [samples], -1 to 1, at `rate`."""

    rate: Natural = 16000
    """Samples a second that the model wants; 0: as they come."""
    encoding: Literal["wav", "u8", "s16", "s24", "s32", "f32", "f64"] = "wav"
    """Other than ``wav``: raw samples, little-endian, `raw_rate` and `raw_channels`."""
    raw_rate: Positive = 16000
    raw_channels: Positive = 1
    mono: bool = True
    """The channels' mean; else FP32 [channels, samples]."""
    max_seconds: Annotated[float, Meta(gt=0)] = 600.0
    """Longer sound is refused."""


class Frame(Step, frozen=True, tag="frame"):
    """[samples] -> [frames, size]: pieces that begin `hop` apart. A model that takes [n, size] sees each as a row; with
    `Card.states`, one after the other."""

    size: Positive = 512
    hop: Natural = 0
    """0: `size`, side by side."""
    pad_start: Natural = 0
    """Zeros before the first sample."""
    pad_end: bool = True
    """Whether the last piece is filled with zeros; else what is left over is dropped."""


class MelSpectrogram(Step, frozen=True, tag="mel_spectrogram"):
    """[samples] -> FP32 [mels, frames]: power of a Hann-windowed Fourier transform in bands of the mel scale."""

    rate: Positive = 16000
    fft_size: Positive = 400
    hop: Positive = 160
    mels: Positive = 80
    min_hz: float = 0.0
    max_hz: float = 0.0
    """0: half of `rate`."""
    scale: Literal["slaney", "htk"] = "slaney"
    """The formula of the scale; ``slaney`` bands also have equal areas."""
    log: Literal["none", "natural", "decibel"] = "natural"
    floor: Annotated[float, Meta(gt=0)] = 1e-10
    """The least power that a logarithm is taken of."""
    center: bool = True
    """Whether the first frame is centred on the first sample (the sound is mirrored at its ends)."""


# --- rows of a table, and files


class Column(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One column of a row."""

    name: str
    type: Literal["number", "category", "text"] = "number"
    missing: float | str | None = None
    """Stands for null and for what is not there (``"nan"`` is a number); `None`: that is refused."""
    mean: float = 0.0
    scale: float = 1.0
    """(value - mean) / scale, as scikit-learn's scalers have it (`mean_` and `scale_`; minimum and range)."""
    categories: list[str | int | float] = []
    """The value becomes its index in this list."""
    unknown: float | None = None
    """For a value that is not in the list; `None`: it is refused (with `one_hot`: all zeros)."""
    one_hot: bool = False
    """A column for each category instead of the index."""
    input: str = ""
    """With `Columns.into` ``inputs``: the model's input; empty: `name`."""


class Columns(Step, frozen=True, tag="columns"):
    """A JSON object, or a list in the order of `columns` -> one FP32 row, or a value [1] for each column."""

    columns: list[Column] = []
    into: Literal["matrix", "inputs"] = "matrix"


class FileBytes(Step, frozen=True, tag="bytes"):
    """The bytes of a file as INT32 numbers: `begin` from its beginning, `middle` from around its middle, `end` from its
    end, one after the other; what a short file lacks is `pad`."""

    begin: Natural = 0
    middle: Natural = 0
    end: Natural = 0
    pad: int = 256
    strip: bool = False
    """Leave out white space at the beginning and at the end of the file."""
    block: Natural = 0
    """White space is looked for in this many bytes at each end, and nothing beyond them is used; 0: all."""


# --- after the model: a value is [batch, …]


class Select(Step, frozen=True, tag="select"):
    """Go on with another output of the model, or with a part of it: from `start` up to `end` along `axis`."""

    axis: int = -1
    start: int = 0
    end: int | None = None
    index: int | None = None
    """One place; the axis goes away."""


class Transpose(Step, frozen=True, tag="transpose"):
    """The axes in another order, that of the batch (0) first."""

    axes: tuple[int, ...] = (0, 2, 1)


class Softmax(Step, frozen=True, tag="softmax"):
    """exp(x) / sum exp(x) along `axis`, FP32."""

    axis: int = -1
    temperature: Annotated[float, Meta(gt=0)] = 1.0
    """The values are divided by it first."""


class Sigmoid(Step, frozen=True, tag="sigmoid"):
    """1 / (1 + exp(-x)), FP32."""


class TopK(Step, frozen=True, tag="top_k"):
    """The `k` largest of the last axis, largest first -> `label` BYTES [batch, k] and `score` FP32 [batch, k]. Names
    are `Card.labels`, else those in the model's file, else the index."""

    k: Natural = 5
    """0: all."""
    label: str = "label"
    score: str = "score"
    minimum: float | None = None
    """Below this score a label is `other`."""
    minimums: dict[str, float] = {}
    """Label → its own minimum."""
    other: str = ""


class Argmax(Step, frozen=True, tag="argmax"):
    """Index of the largest along `axis`, INT64."""

    output: str = "index"
    axis: int = -1


class Threshold(Step, frozen=True, tag="threshold"):
    """value >= `minimum`, BOOL."""

    minimum: float = 0.5


class Labels(Step, frozen=True, tag="labels"):
    """Index -> name, BYTES. Names are `Card.labels`, else those in the model's file."""

    output: str = "label"
    other: str = ""
    """For an index that has no name."""


class MeanPool(Step, frozen=True, tag="mean_pool"):
    """Mean over the tokens [batch, tokens, n] -> [batch, n], FP32, padding left out."""

    output: str = "embedding"
    mask: str = "attention_mask"
    """A value of the steps before the model; where there is none of that name, all count."""


class ClsPool(Step, frozen=True, tag="cls_pool"):
    """The first token [batch, tokens, n] -> [batch, n], FP32."""

    output: str = "embedding"


class LastPool(Step, frozen=True, tag="last_pool"):
    """The last token that is not padding [batch, tokens, n] -> [batch, n], FP32."""

    output: str = "embedding"
    mask: str = "attention_mask"


class NormalizeL2(Step, frozen=True, tag="normalize_l2"):
    """Euclidean length 1 along the last axis, FP32."""

    output: str = "embedding"


class Regression(Step, frozen=True, tag="regression"):
    """value × scale + offset, FP32, a last axis of 1 left out."""

    output: str = "value"
    unit: str = ""
    scale: float = 1.0
    offset: float = 0.0
    minimum: float | None = None
    maximum: float | None = None


class Nms(Step, frozen=True, tag="nms"):
    """Boxes that overlap less than `iou` with any better one of their class (greedy non-maximum suppression) ->
    `boxes` FP32 [batch, max_boxes, 4] as left, top, right, bottom in pixels of the image that came, best first, with
    `label` BYTES and `score` FP32 [batch, max_boxes] and `count` INT64 [batch]; beyond the count they are zero and
    empty."""

    output: str = "boxes"
    scores: str = "scores"
    """A value [batch, boxes, classes], or [batch, boxes] for one class; `input` is [batch, boxes, 4]."""
    classes: str = ""
    """A value [batch, boxes] with the class of each box, where `scores` has only the best."""
    form: Literal["xyxy", "xywh", "cxcywh"] = "cxcywh"
    """Corners; left, top, width, height; centre, width, height."""
    relative: bool = False
    """Whether coordinates are shares of the model's picture instead of its pixels."""
    iou: Share = 0.45
    minimum: float = 0.25
    """Boxes with a lower score are left out."""
    per_class: bool = True
    """Whether boxes of different classes may overlap."""
    max_boxes: Positive = 100
    restore: bool = True
    """Undo what `resize` and `crop` did to coordinates."""
    label: str = "label"
    score: str = "score"
    count: str = "count"


BeforeStep = (
    DecodeImage
    | Resize
    | Crop
    | Layout
    | Normalize
    | Cast
    | Reshape
    | Length
    | Constant
    | TokenizeText
    | DecodeAudio
    | Frame
    | MelSpectrogram
    | Columns
    | FileBytes
)
AfterStep = (
    Select
    | Transpose
    | Softmax
    | Sigmoid
    | TopK
    | Argmax
    | Threshold
    | Labels
    | MeanPool
    | ClsPool
    | LastPool
    | NormalizeL2
    | Regression
    | Nms
)
Item = Literal["", "text", "image", "audio", "row", "file"]


class Card(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Lives with the version, so that a model means the same wherever it runs."""

    labels: list[str] = []
    """Class names in the order of the last axis of the output that holds the classes."""
    units: dict[str, str] = {}
    """Tensor → what its values mean: ``mg/l``, ``0 to 16``."""
    padding: dict[str, dict[str, float]] = {}
    """Axis, by the name that the file gives it → input → the value that fills it, so that requests of different
    lengths share a batch. Outputs that have the axis are cut back."""
    states: dict[str, str] = {}
    """Input → output: what a model wants to see again in the next request of the same sequence. A request with a
    sequence id may leave these inputs out; the first one begins with zeros. Within one item, `Frame` makes the
    sequence."""
    item: Item = ""
    """What one item is, for models that take items: a text (UTF-8), an image file, a sound (WAV, or raw samples), a row
    (a JSON object or list), any file. Empty: only tensors."""
    before: list[BeforeStep] = []
    """From an item to the model's inputs."""
    after: list[AfterStep] = []
    """From the model's outputs to the answer; empty: the outputs as they are."""


def gives(step: AfterStep, input: str) -> list[str]:
    """The names of what ``step`` gives when it takes ``input``."""
    match step:
        case TopK():
            return [step.label, step.score]
        case Nms():
            return [step.output, step.label, step.score, step.count]
        case _:
            return [step.output or input]


def takes(step: AfterStep, current: str) -> list[str]:
    """The names of what ``step`` takes when the step before gave ``current``."""
    first = [step.input or current]
    if isinstance(step, Nms):
        return first + [name for name in (step.scores, step.classes) if name]
    return first


def answer_names(card: Card, first_output: str = "") -> list[str]:
    """What the steps after the model give and none of them takes, in their order; empty where there are none.
    ``first_output`` is the model's."""
    current = first_output
    left: dict[str, None] = {}
    for step in card.after:
        for name in takes(step, current):
            left.pop(name, None)
        given = gives(step, step.input or current)
        left.update(dict.fromkeys(given))
        current = given[0]
    if left and any(isinstance(step, TokenizeText) for step in card.before):
        left.setdefault("tokens")
    return list(left)

"""Open Inference Protocol requests from what a person has at hand, and classes from what comes back. Pure but for
reading the file that is named."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from app.errors import InvalidInput

DTYPES = {
    "BOOL": "bool", "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip


def read(text: str) -> Any:
    """``text`` as data: a ``.npy`` or ``.npz`` file, a JSON file, or JSON. Raises `InvalidInput`."""
    path = Path(text)
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp", ".webp"):
            raise InvalidInput(
                f"{path.name} is a picture",
                hint="`pilothouse describe` can say how it becomes tensors; or save its pixels as .npy or JSON",
            )
        is_json_text = text.lstrip()[:1] in ("[", "{") or not path.suffix
        return json.loads(text if is_json_text else path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"{text} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise InvalidInput(
            f"the input is neither JSON nor an array: {error}", hint="give a .npy file, a JSON file or a JSON list"
        ) from None


def request(inputs: list[dict[str, Any]], value: Any) -> dict[str, Any]:
    """The body of an infer request for a model with these ``inputs`` (`TensorMetadata`).

    ``value``: a whole request (an object with ``inputs``), an object of one array a name, or the one array of a
    model with a single input. Raises `InvalidInput` naming the input, what it expects and what came.
    """
    if isinstance(value, dict) and isinstance(value.get("inputs"), list):
        return value
    if not isinstance(value, dict):
        if len(inputs) != 1:
            raise InvalidInput(f"this model takes {len(inputs)} inputs", hint=f"give an object with {_names(inputs)}")
        value = {inputs[0]["name"]: value}
    if missing := [entry["name"] for entry in inputs if entry["name"] not in value]:
        raise InvalidInput(f"input {missing[0]} is missing", field=missing[0], hint=f"it takes {_names(inputs)}")
    return {"inputs": [_tensor(entry, value[entry["name"]]) for entry in inputs]}


def _names(inputs: list[dict[str, Any]]) -> str:
    return ", ".join(f"{entry['name']} ({entry['datatype']} {entry['shape']})" for entry in inputs)


def _tensor(entry: dict[str, Any], value: Any) -> dict[str, Any]:
    name, datatype = entry["name"], entry["datatype"]
    try:
        array = np.asarray(value, dtype=DTYPES.get(datatype, "object"))
    except (ValueError, TypeError, OverflowError):
        raise InvalidInput(
            f"input {name} expects {datatype} {entry['shape']}, not {_short(value)}", field=name
        ) from None
    shape = fit(list(array.shape), entry["shape"])
    if shape is None:
        raise InvalidInput(
            f"input {name} expects {datatype} of shape {entry['shape']}, and {list(array.shape)} came", field=name
        )
    return {"name": name, "datatype": datatype, "shape": shape, "data": array.ravel().tolist()}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def fit(shape: list[int], wanted: list[int]) -> list[int] | None:
    """``shape`` as ``wanted`` (-1 is any): as it is, or as one row or several rows of it; `None` if neither."""
    if len(shape) == len(wanted) and all(want in (-1, have) for have, want in zip(shape, wanted, strict=True)):
        return shape
    count = math.prod(shape)
    row = [1 if dimension == -1 else dimension for dimension in wanted]
    if count == math.prod(row):
        return row
    if wanted[:1] == [-1] and -1 not in wanted[1:] and count and count % math.prod(wanted[1:]) == 0:
        return [count // math.prod(wanted[1:]), *wanted[1:]]
    return None


def classes(answer: dict[str, Any], labels: list[str], top: int = 5) -> list[list[tuple[str, float]]] | None:
    """For each row the ``top`` classes with their probabilities, most likely first; `None` where the first output
    is not one distribution a row."""
    first = answer["outputs"][0]
    if not first["datatype"].startswith("FP") or len(first["shape"]) != 2 or first["shape"][1] < 2:
        return None
    rows = np.asarray(first["data"], dtype=np.float64).reshape(first["shape"])
    if (rows < 0).any() or not np.allclose(rows.sum(axis=1), 1, atol=1e-3):
        return None
    names = labels if len(labels) == rows.shape[1] else [str(number) for number in range(rows.shape[1])]
    order = np.argsort(-rows, axis=1, kind="stable")[:, :top]
    return [[(names[at], float(row[at])) for at in best] for row, best in zip(rows, order, strict=True)]


def boxes(answer: dict[str, Any]) -> str:
    """What a detector found in the first image, a line each: its name, score, and corners in pixels. Empty where the
    answer is not a detector's."""
    found = {output["name"]: output["data"] for output in answer["outputs"]}
    if not {"boxes", "label", "score", "count"} <= found.keys():
        return ""
    count = found["count"][0]
    corners = np.asarray(found["boxes"], dtype=np.float64).reshape(-1, 4)[:count]
    width = max((len(label) for label in found["label"][:count]), default=0)
    lines = [
        f"{label.rjust(width)}  {score:6.1%}  {left:.0f}, {top:.0f} to {right:.0f}, {bottom:.0f}"
        for label, score, (left, top, right, bottom) in zip(found["label"], found["score"], corners, strict=False)
    ]
    return "\n".join(lines) or "nothing is found"

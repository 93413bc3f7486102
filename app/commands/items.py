"""What a person has at hand as an item of a model with declared steps: a text, a file, a row."""

import base64
import json
from pathlib import Path
from typing import Any

from app.client import escape
from app.commands.session import Session
from app.errors import InvalidInput

#: Files that hold tensors.
_TENSORS = (".npy", ".npz", ".json")


def read(session: Session, deployment: dict[str, Any], given: str) -> Any | None:
    """``given`` as `/v1/classify` and `/v1/embeddings` take it; `None` where the deployment takes no items, or where
    ``given`` is rather tensors. Raises `ClientError`, and `InvalidInput` for what is neither."""
    if (deployment.get("spec") or {}).get("pipeline"):
        return None
    version = f"{escape(deployment['model'])}/versions/{deployment['version']}"
    kind = session.client.get(f"/manage/v1/models/{version}/card")["item"]
    return item(kind, given, {entry["name"] for entry in deployment["inputs"]}) if kind else None


def item(kind: str, given: str, inputs: set[str]) -> Any | None:
    """Pure but for reading the file that is named. ``inputs``: names of the model's tensors. Raises `InvalidInput`."""
    path = Path(given)
    tensors = path.suffix.lower() in _TENSORS or given.lstrip()[:1] in ("[", "{")
    if kind == "row":
        try:
            row = json.loads(given)
        except ValueError:
            return None
        return {"row": row} if isinstance(row, dict) and not row.keys() & (inputs | {"inputs"}) else None
    if kind == "text":
        return given if given and not tensors else None
    if tensors and kind != "file":  # whatever a model of files takes, its own tensors are given as JSON
        return None
    if path.is_file():
        return {kind: base64.b64encode(path.read_bytes()).decode()}
    if tensors:
        return None
    what = "a file" if kind == "file" else f"an {kind} file"
    raise InvalidInput(f"there is no file {given}", hint=f"this model takes the path of {what}")


def content(item: Any) -> bytes:
    """An item of `read` as `/v2` takes it."""
    if isinstance(item, str):
        return item.encode()
    [(kind, value)] = item.items()
    return json.dumps(value).encode() if kind == "row" else base64.b64decode(value)

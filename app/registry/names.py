"""Names of models and paths of their files: what is allowed, decided once."""

import re
from pathlib import PurePosixPath

from app.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
#: Windows refuses these as file names, with any extension.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def check_name(name: str) -> str:
    """``name`` itself if a model may be called so. Raises `InvalidInput`."""
    if not _NAME.fullmatch(name) or ".." in name or _RESERVED.fullmatch(name):
        raise InvalidInput(
            f"{name!r} cannot be the name of a model",
            hint="use up to 96 letters, digits, dots, dashes and underscores; none of the last three at an end",
            field="name",
        )
    return name


def check_path(path: str) -> str:
    """``path`` itself if a file of a model may lie there, relative to its folder. Raises `InvalidInput`."""
    parts = PurePosixPath(path).parts
    if (
        not parts
        or path != "/".join(parts)  # absolute, `a//b`, `a/./b`, `a/`
        or any(part == ".." or part.startswith(".") or set(part) & set('\\:*?"<>|\0') for part in parts)
        or any(_RESERVED.fullmatch(part) for part in parts)
    ):
        raise InvalidInput(f"{path!r} cannot be the path of a file of a model", field="path")
    return path


def suggest_name(text: str) -> str:
    """The nearest allowed name to ``text``: the default name of something that has none."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text)
    name = re.sub(r"\.{2,}", ".", name).strip("._-")[:90].rstrip("._-")
    return check_name(f"model-{name}" if _RESERVED.fullmatch(name) else name or "model")


def split_reference(reference: str) -> tuple[str, int | None]:
    """``NAME[@VERSION]`` apart; `None` means the newest. Raises `InvalidInput`."""
    name, at, version = reference.partition("@")
    if not at or version == "latest":
        return name, None
    if not version.isdecimal():
        raise InvalidInput(f"{version!r} is not a version", hint="a version is a number: NAME@3", field="version")
    return name, int(version)

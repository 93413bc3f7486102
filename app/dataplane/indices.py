"""Errors that name an entry by its number among others, told by those who asked for a part of them."""

import copy
import re
from collections.abc import Sequence
from typing import TypeVar

from app.errors import PilothouseError

E = TypeVar("E", bound=BaseException)
_INDEX = re.compile(r"\[(\d+)\]")


def renumbered(error: E, positions: Sequence[int]) -> E:
    """A copy for one of several to be told (what is raised is changed on its way): its field ``item[2]`` is that of
    ``positions[2]``."""
    error = copy.copy(error)
    found = _INDEX.search(error.field) if isinstance(error, PilothouseError) else None
    if isinstance(error, PilothouseError) and found is not None and int(found[1]) < len(positions):
        start, stop = found.span(1)
        field = f"{error.field[:start]}{positions[int(found[1])]}{error.field[stop:]}"
        error.message, error.field = error.message.replace(error.field, field), field
    return error

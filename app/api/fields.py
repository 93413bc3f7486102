"""The names of a request's fields: a worker names what is wrong by its own words, the client knows others."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.errors import PilothouseError

_INDEXED = re.compile(r"(\w+)\[(\d+)\]")


@contextmanager
def said_as(rename: Callable[[str], str]) -> Iterator[None]:
    """A `PilothouseError` that comes out of the block names its field, and speaks of it, as ``rename`` says."""
    try:
        yield
    except PilothouseError as error:
        if error.field and (name := rename(error.field)) != error.field:
            error.message, error.field = error.message.replace(error.field, name), name
        raise


def from_index(first: int, stem: str) -> Callable[[str], str]:
    """For a part of a list that begins at ``first``: ``stem[2]`` is ``stem[first + 2]``."""

    def rename(field: str) -> str:
        found = _INDEXED.fullmatch(field)
        return f"{stem}[{first + int(found[2])}]" if found is not None and found[1] == stem else field

    return rename

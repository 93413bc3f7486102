"""How a family of models writes an answer: values that the analysis finds, the parser reads and the grammar enforces.

A text in these values is matched with any white space around it, and with any where it has a line break: models write
white space otherwise than their templates do.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Thinking:
    """``start`` reasoning ``end``. ``start`` is empty where an answer always begins with reasoning."""

    start: str
    end: str
    anywhere: bool = False
    """Whether it may come after text too; otherwise only first, or right after calls."""
    ended_by_call: bool = False
    """A call inside it ends it; otherwise it is only a thought of one."""


@dataclass(frozen=True)
class JsonCall:
    """A call is one JSON object: ``{"name": …, "arguments": {…}}``."""

    name: str
    """Key of the name; empty where the name itself is the key of the arguments."""
    arguments: str = ""
    id: str = ""
    id_last: bool = False
    """The id comes after the arguments: nothing of a call is known before it is whole."""
    wrapper: str = ""
    """Key of the object that holds name and arguments (``function`` in OpenAI's own form)."""


@dataclass(frozen=True)
class Hole:
    """A place in the head of a call: ``name``, ``id`` or ``number`` (any digits)."""

    kind: str
    around: tuple[str, str] = ("", "")
    """What an id has before and after the name, where it holds the name: ``functions.NAME:0``."""


@dataclass(frozen=True)
class Tagged:
    """Arguments as text between tags: ``key_start`` key ``key_end`` value ``value_end``, again and again."""

    key_start: str
    key_end: dict[str, str] = field(hash=False)
    """By JSON type (``string``, ``integer``, …) of the value; where all are alike the type is that of the schema."""
    value_end: str = ""
    json_strings: bool = False
    """Strings are written as JSON too, with their quotes."""


@dataclass(frozen=True)
class Elements:
    """Arguments as nested elements: ``open`` key ``>`` value ``close`` key ``>``; items of lists are ``item``."""

    prefix: str
    item: str = "item"


@dataclass(frozen=True)
class LooseDict:
    """Arguments as ``{key:value,…}`` with bare keys and strings between ``quote``."""

    quote: str


@dataclass(frozen=True)
class TagCall:
    """A call is a head that names it, its arguments, and a tail. ``arguments`` None: one JSON object."""

    head: tuple[str | Hole, ...]
    arguments: Tagged | Elements | LooseDict | None = None
    tail: str = ""
    head_end: str = ""
    """Literal between the head and the first argument. Part of it may be missing where there are no arguments."""


@dataclass(frozen=True)
class PythonCall:
    """A call is ``name(key=value, …)`` with Python's or JSON's literals."""


@dataclass(frozen=True)
class Calls:
    """``start`` (``call_start`` call ``call_end``, ``separator`` between) ``end``."""

    shape: JsonCall | TagCall | PythonCall
    start: str = ""
    end: str = ""
    call_start: str = ""
    call_end: str = ""
    separator: str = ""
    array: bool = False
    """The calls are the items of a JSON array."""
    skippable: str = ""
    """The part of the opening that some models begin with, leaving out the rest."""
    parallel: bool = True

    @property
    def opening(self) -> str:
        """What stands before the name of the first call (empty: a call can only begin the answer)."""
        head = self.shape.head[0] if isinstance(self.shape, TagCall) and isinstance(self.shape.head[0], str) else ""
        return self.start + ("[" if self.array and not self.start else "") + self.call_start + head


@dataclass(frozen=True)
class Syntax:
    thinking: Thinking | None = None
    calls: Calls | None = None
    dropped: tuple[str, ...] = ()
    """Markers around plain content, which are no part of it."""
    prefix: str = ""
    """The end of the prompt, where the syntax of the answer begins in it."""

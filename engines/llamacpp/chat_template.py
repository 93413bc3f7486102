"""Jinja templates as models carry them: the dialect that transformers renders, in a sandbox that comes to an end."""

import datetime
import json
import time
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
#: Bounds of one rendering: a template is data of a stranger's file.
DEADLINE_S = 5.0
MAX_RANGE = 100_000
MAX_CHARACTERS = 64 << 20

#: What a template may raise while it renders.
RENDER_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class JinjaTemplate:
    """A compiled template. Raises `jinja2.TemplateError` where the text is none."""

    def __init__(self, text: str, bos: str = "", eos: str = ""):
        self.text = text
        self._environment = _Environment()
        self._template = self._environment.from_string(text)
        self._tokens = {"bos_token": bos, "eos_token": eos}

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        variables: dict[str, Any] | None = None,
        generation_prompt: bool = True,
    ) -> str:
        """The prompt. ``tools`` None leaves the variable out. Raises one of `RENDER_ERRORS`."""
        now = datetime.datetime.now()
        values: dict[str, Any] = {
            **self._tokens,
            "add_generation_prompt": generation_prompt,
            "date_string": now.strftime("%d %b %Y"),
            "datetime": now.strftime("%b %d %Y"),
            **(variables or {}),
            "messages": messages,
        }
        if tools:
            values["tools"] = tools
        if "functions" in self.text:  # firefunction's name for them, as text
            values["functions"] = json.dumps([tool["function"] for tool in tools or ()], indent=4, ensure_ascii=False)
        self._environment.begin()
        parts: list[str] = []
        size = 0
        for part in self._template.generate(values):
            size += len(part)
            if size > MAX_CHARACTERS:
                raise jinja2.TemplateError(f"the prompt is longer than {MAX_CHARACTERS} characters")
            parts.append(part)
        return "".join(parts)


class _Environment(SandboxedEnvironment):
    """As transformers sets it up, which is what templates are written against; lists may be appended to, as in
    llama.cpp, since what a template gets are copies."""

    intercepted_binops = frozenset(["*", "**"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            # As in llama.cpp: templates read deep into schemas, which clients write as they like.
            undefined=jinja2.ChainableUndefined,
            extensions=["jinja2.ext.loopcontrols", _GenerationBlock],
        )
        self._ends = float("inf")
        self._range_left = MAX_RANGE
        self.filters["tojson"] = _to_json
        self.filters["from_json"] = self.filters["fromjson"] = json.loads
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        self.globals["range"] = self._range

    def begin(self) -> None:
        self._ends = time.monotonic() + DEADLINE_S
        self._range_left = MAX_RANGE

    def _range(self, *arguments: int) -> range:
        numbers = range(*arguments)
        self._range_left -= len(numbers)
        if self._range_left < 0:
            raise jinja2.TemplateError(f"the template counts further than {MAX_RANGE}")
        return numbers

    def _check(self) -> None:
        if time.monotonic() > self._ends:
            raise jinja2.TemplateError(f"the template did not end within {DEADLINE_S:.0f} s")

    def getattr(self, obj: Any, attribute: str) -> Any:
        self._check()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self._check()
        return super().getitem(obj, argument)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or (not isinstance(left, int | float) and isinstance(right, int) and right > 10_000):
            raise jinja2.TemplateError(f"the template multiplies beyond bounds ({operator})")
        return super().call_binop(context, operator, left, right)


class _GenerationBlock(Extension):
    """``{% generation %}``, by which transformers marks the assistant's tokens: its body, and nothing else."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    indent: int | None = None,
    ensure_ascii: bool = False,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=_plain
    )


def _plain(value: Any) -> Any:
    """What filters give lazily (``map``, ``selectattr``) is a list to JSON; an undefined value is none."""
    if isinstance(value, jinja2.Undefined):
        return None
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not JSON")

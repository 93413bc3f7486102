"""Messages to prompt text, by the template in the GGUF; ChatML stands in where there is none."""

import datetime
import json
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engines.engine import EngineError

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class ChatTemplate:
    """``source`` is ``gguf`` or ``chatml``; ``notes`` are sentences for the user; ``stop`` are strings that end an
    answer because the model does not know them as tokens."""

    def __init__(self, template: str | None, bos: str, eos: str):
        self.source, self.notes, self.stop = "gguf", list[str](), list[str]()
        self._bos = bos
        self._variables = {"bos_token": bos, "eos_token": eos, "add_generation_prompt": True}
        environment = _environment()
        if template:
            try:
                self._template = environment.from_string(template)
                return
            except jinja2.TemplateError as error:
                self.notes.append(f"The chat template in the file is broken ({error}); ChatML stands in for it.")
        else:
            self.notes.append("The file carries no chat template; ChatML stands in for it.")
        self.source, self.stop = "chatml", ["<|im_end|>", "<|im_start|>"]
        self._template = environment.from_string(CHATML)

    def render(self, messages: list[dict[str, Any]]) -> tuple[str, bool]:
        """(prompt text, whether the tokenizer must still add the special tokens that begin a prompt).

        Raises `EngineError` (``invalid_input``), also when the template itself refuses the messages.
        """
        try:
            text = self._template.render(messages=_plain(messages), **self._variables)
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise _invalid(f"the chat template refuses these messages: {error}") from error
        return text, not (self._bos and text.startswith(self._bos))


def _invalid(message: str) -> EngineError:
    return EngineError("invalid_input", message, field="messages")


def _plain(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Templates expect each content as one string; protocols also send lists of text parts."""
    if not messages:
        raise _invalid("messages is empty")
    plain = []
    for index, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise _invalid(f"messages[{index}] has no role")
        content = message.get("content")
        if isinstance(content, list):
            if any(not isinstance(part, dict) or not isinstance(part.get("text"), str) for part in content):
                raise _invalid(f"messages[{index}] has a part that is not text, and this model reads only text")
            content = "".join(part["text"] for part in content)
        if not isinstance(content, str | None):
            raise _invalid(f"messages[{index}].content is neither text nor a list of parts")
        plain.append({**message, "content": content or ""})
    return plain


def _environment() -> jinja2.Environment:
    # As transformers sets it up, which is what templates are written against.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment

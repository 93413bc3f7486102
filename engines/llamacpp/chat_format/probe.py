"""What a chat template does with made-up messages: rendered, and compared."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from engines.llamacpp.chat_template import RENDER_ERRORS, JinjaTemplate

FIRST, SECOND = "zq_first_tool", "zq_other_tool"
KEY_1, KEY_2 = "zq_key_one", "zq_key_two"
VALUE_1, VALUE_2 = "zqvalueone", "zqvaluetwo"
ID_1, ID_2 = "zqid00001", "zqid00002"
CONTENT, REASON, USER = "Zq content here.", "Zq reason here.", "Zq user here."

_TOKEN = re.compile(r"<[^<>]*>?|\[/?[A-Z_ ]+\]|.", re.DOTALL)


def _tool(name: str) -> dict[str, Any]:
    properties = {
        KEY_1: {"type": "string", "description": "One."},
        KEY_2: {"type": "string", "description": "Two."},
    }
    parameters = {"type": "object", "properties": properties, "required": [KEY_1]}
    return {"type": "function", "function": {"name": name, "description": "Test.", "parameters": parameters}}


TOOLS = [_tool(FIRST), _tool(SECOND)]
USER_MESSAGE = {"role": "user", "content": USER}


@dataclass(frozen=True)
class Capabilities:
    """What a template does with messages of each form."""

    typed_content: bool = False
    """Only lists of parts reach the prompt."""
    text_arguments: bool = False
    """A call's arguments are wanted as JSON text, not as an object."""
    null_content: bool = False
    """Calls are only rendered where the content is null."""
    system: bool = True
    tool_role: bool = True
    calls: bool = True
    """A conversation's calls reach the prompt."""
    tools: bool = True
    """Descriptions of tools reach the prompt."""
    parallel: bool = True
    generation_prompt: str = ""


class Probe:
    """Renders, and gives None where the template refuses."""

    def __init__(self, template: JinjaTemplate, capabilities: Capabilities = Capabilities()):
        self._template = template
        self.source = template.text
        self.can = capabilities

    def render(
        self,
        *messages: dict[str, Any],
        tools: Sequence[dict[str, Any]] | None = TOOLS,
        prompt: bool = False,
        **variables: Any,
    ) -> str | None:
        shown = [self._shape(message) for message in messages]
        try:
            return self._template.render(shown, tools, {"enable_thinking": True, **variables}, prompt)
        except RENDER_ERRORS:
            return None

    def _shape(self, message: dict[str, Any]) -> dict[str, Any]:
        if self.can.typed_content and isinstance(message.get("content"), str):
            return {**message, "content": [{"type": "text", "text": message["content"]}]}
        return message

    def calls(self, *calls: tuple[str, dict[str, Any], str], **message: Any) -> dict[str, Any]:
        """An assistant's message with the calls (name, arguments, id)."""
        return {
            "role": "assistant",
            "content": None if self.can.null_content else "",
            "tool_calls": [
                {
                    "id": id,
                    "type": "function",
                    "function": {
                        "name": name,
                        "arguments": json.dumps(arguments) if self.can.text_arguments else arguments,
                    },
                }
                for name, arguments, id in calls
            ],
            **message,
        }


def probe_capabilities(template: JinjaTemplate) -> Capabilities:
    """Render and see what arrives."""
    can = Capabilities()
    plain = Probe(template, can).render(USER_MESSAGE)
    if plain is None or USER not in plain:
        typed = replace(can, typed_content=True)
        arrived = Probe(template, typed).render(USER_MESSAGE)
        if arrived is not None and USER in arrived:
            can = typed
    probe = Probe(template, can)
    system = probe.render({"role": "system", "content": "Zq system here."}, USER_MESSAGE)
    can = replace(can, system=system is not None and "Zq system here." in system)
    described = probe.render(USER_MESSAGE)
    can = replace(can, tools=described is not None and FIRST in described)
    one, two = (FIRST, {KEY_1: VALUE_1}, ID_1), (SECOND, {KEY_2: VALUE_2}, ID_2)
    found = False
    for null_content in (False, True):
        for text_arguments in (False, True):
            option = replace(can, null_content=null_content, text_arguments=text_arguments)
            probe = Probe(template, option)
            shown = probe.render(USER_MESSAGE, probe.calls(one))
            added = shown[shown.rfind(USER) :] if shown is not None else ""
            if VALUE_1 in added and f"'{KEY_1}'" not in added:
                can, found = option, True
                break
        if found:
            break
    can = replace(can, calls=found)
    if found:
        probe = Probe(template, can)
        both = probe.render(USER_MESSAGE, probe.calls(one, two))
        can = replace(can, parallel=both is not None and VALUE_2 in both)
        result = {"role": "tool", "content": "Zq result here.", "tool_call_id": ID_1, "name": FIRST}
        answered = probe.render(USER_MESSAGE, probe.calls(one), result)
        can = replace(can, tool_role=answered is not None and "Zq result here." in answered)
    without, withal = (Probe(template, can).render(USER_MESSAGE, prompt=prompt) for prompt in (False, True))
    if without is not None and withal is not None and withal.startswith(without):
        can = replace(can, generation_prompt=withal[len(without) :])
    return can


def common_prefix(left: str, right: str) -> str:
    """The longest common beginning that cuts no marker."""
    length = 0
    for a, b in zip(_TOKEN.findall(left), _TOKEN.findall(right), strict=False):
        if a != b:
            break
        length += len(a)
    return left[:length]


def common_suffix(left: str, right: str) -> str:
    """The longest common end that cuts no marker."""
    length = 0
    for a, b in zip(reversed(_TOKEN.findall(left)), reversed(_TOKEN.findall(right)), strict=False):
        if a != b:
            break
        length += len(a)
    return left[len(left) - length :]

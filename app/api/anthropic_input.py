"""From Anthropic's messages to the one form that workers know. Values in, values out."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from app.api.messages import RemoteImage, base64_bytes
from app.api.sampling import number, sampling, stops
from app.api.structured import schema
from app.api.tools import check_depth, check_schema
from app.errors import InvalidInput
from app.schema.anthropic import (
    CountRequest,
    DocumentBlock,
    ImageBlock,
    InputMessage,
    MessagesRequest,
    RedactedThinkingBlock,
    Source,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
)
from engines.protocol import Generate, Grammar, Tokenize

Media = list[bytes | RemoteImage]
_encode = msgspec.json.Encoder().encode

#: Some clients put a stamp that changes with every request at the head of the system prompt, which would keep its
#: prefix from ever being reused. It means nothing to a model here.
_STAMP = re.compile(r"^(x-anthropic-billing-header:[^\n]*?\bcch=)[0-9a-zA-Z]+")


def generation(body: MessagesRequest) -> tuple[Generate, Media]:
    """The request of one sequence, and its images. Raises `InvalidInput` that names the field."""
    if body.temperature is not None:
        number(body.temperature, "temperature", float, 0, 1)
    messages, media = conversation(body)
    tools, choice = _tools(body)
    last = messages[-1]
    if last.get("tool_calls"):
        raise InvalidInput(
            "messages: the last message uses a tool, and no tool_result follows",
            hint="send the result in a user message",
            field="messages",
        )
    request = Generate(
        0,
        messages=messages,
        sampling=sampling({"temperature": body.temperature, "top_p": body.top_p, "top_k": body.top_k}),
        max_tokens=number(body.max_tokens, "max_tokens", int, 1, 1 << 24),
        stop=stops(body.stop_sequences, "stop_sequences"),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=not (body.tool_choice is not None and body.tool_choice.disable_parallel_tool_use),
        variables=_variables(body, body.max_tokens),
        grammar=_grammar(body),
        continue_final=last["role"] == "assistant",
    )
    return request, media


def counting(body: CountRequest) -> Tokenize:
    """What counts the tokens of the prompt that `generation` would send. Raises `InvalidInput`."""
    messages, _ = conversation(body)
    return Tokenize(0, messages=messages, tools=_tools(body)[0], variables=_variables(body, None))


def worker_field(name: str) -> str:
    """What the caller knows as the field that a worker calls ``name``."""
    if name in ("grammar", "response_format"):
        return "output_config.format"
    return "messages" if name.startswith("media[") else name


def conversation(body: CountRequest) -> tuple[list[dict[str, Any]], Media]:
    """Canonical messages, the system prompt first, consecutive turns of one role joined as Anthropic joins them."""
    if not body.messages:
        raise InvalidInput("messages is empty", field="messages")
    reader = _Reader()
    if body.system:
        texts = [body.system] if isinstance(body.system, str) else [block.text for block in body.system]
        for text in texts:
            reader.say("system", _STAMP.sub(r"\g<1>0", text))
    for index, message in enumerate(body.messages):
        reader.read(message, f"messages[{index}]")
    return reader.finish(), reader.media


class _Reader:
    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self.media: Media = []
        self._names: dict[str, str] = {}

    def read(self, message: InputMessage, where: str) -> None:
        role = message.role
        if isinstance(message.content, str):
            self.say(role, message.content)
            return
        if not message.content:
            self._turn(role)
        for index, block in enumerate(message.content):
            place = f"{where}.content[{index}]"
            if isinstance(block, TextBlock):
                self.say(role, block.text)
            elif role == "assistant" and isinstance(block, ThinkingBlock):
                turn = self._turn(role)
                turn["reasoning_content"] = turn.get("reasoning_content", "") + block.thinking
            elif role == "assistant" and isinstance(block, RedactedThinkingBlock):
                self._turn(role)  # not ours to read
            elif role == "assistant" and isinstance(block, ToolUseBlock):
                self._names[block.id] = block.name
                check_depth(block.input, f"{place}.input")
                function = {"name": block.name, "arguments": _encode(block.input).decode()}
                call = {"id": block.id, "type": "function", "function": function}
                self._turn(role).setdefault("tool_calls", []).append(call)
            elif role == "user" and isinstance(block, ImageBlock | DocumentBlock):
                self._turn(role)["content"].append(self._part(block, place))
            elif role == "user" and isinstance(block, ToolResultBlock):
                self._result(block, place)
            else:
                kind = type(block).__struct_config__.tag
                raise InvalidInput(
                    f"{place}: a block of type {kind} cannot be in a message of role {role}", field=f"{place}.type"
                )

    def say(self, role: str, text: str) -> None:
        self._turn(role)["content"].append({"type": "text", "text": text})

    def _turn(self, role: str) -> dict[str, Any]:
        if not self._messages or self._messages[-1]["role"] != role:
            self._messages.append({"role": role, "content": []})
        return self._messages[-1]

    def _result(self, block: ToolResultBlock, where: str) -> None:
        name = self._names.get(block.tool_use_id)
        if name is None:
            raise InvalidInput(
                f"{where}.tool_use_id: no tool_use block before has the id {block.tool_use_id!r}",
                field=f"{where}.tool_use_id",
            )
        given = [TextBlock(block.content)] if isinstance(block.content, str) else block.content or []
        parts = [self._part(part, f"{where}.content[{index}]") for index, part in enumerate(given)]
        self._messages.append({"role": "tool", "tool_call_id": block.tool_use_id, "name": name, "content": parts})

    def _part(self, block: TextBlock | ImageBlock | DocumentBlock, where: str) -> dict[str, Any]:
        if isinstance(block, TextBlock):
            return {"type": "text", "text": block.text}
        if isinstance(block, DocumentBlock):
            lines = [block.title, block.context, _document(block.source, f"{where}.source")]
            return {"type": "text", "text": "\n".join(line for line in lines if line)}
        self.media.append(_image(block.source, f"{where}.source"))
        return {"type": "image", "media": len(self.media) - 1}

    def finish(self) -> list[dict[str, Any]]:
        """Content of text alone becomes one text, as templates expect it."""
        for message in self._messages:
            parts = message["content"]
            if all(part["type"] == "text" for part in parts):
                message["content"] = "\n".join(part["text"] for part in parts)
        return self._messages


def _image(source: Source, where: str) -> bytes | RemoteImage:
    if source.type == "base64" and source.data is not None:
        return base64_bytes(source.data, f"{where}.data")
    if source.type == "url" and source.url is not None:
        return RemoteImage(source.url, f"{where}.url")
    raise InvalidInput(
        f"{where}: an image of source type {source.type!r} is not supported",
        hint='send {"type": "base64", "media_type": …, "data": …}',
        field=f"{where}.type",
    )


def _document(source: Source, where: str) -> str:
    if source.type == "text" and source.data is not None:
        return source.data
    if source.type == "content" and source.content is not None:
        if isinstance(source.content, str):
            return source.content
        try:
            return "\n".join(block.text for block in msgspec.convert(source.content, list[TextBlock]))
        except msgspec.ValidationError:
            pass
    raise InvalidInput(
        f"{where}: a document of source type {source.type!r} is not supported; only text is",
        hint='send {"type": "text", "media_type": "text/plain", "data": …}',
        field=f"{where}.type",
    )


def _tools(body: CountRequest) -> tuple[list[dict[str, Any]], str]:
    """Canonical tools, and `Generate.tool_choice`."""
    tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(body.tools or ())]
    return tools, _choice(body, [tool["function"]["name"] for tool in tools])


def _tool(tool: Tool, where: str) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        raise InvalidInput(
            f"{where}: there is no tool of type {tool.type!r} here",
            hint="declare a tool of your own, with name and input_schema",
            field=f"{where}.type",
        )
    if tool.input_schema is None:
        raise InvalidInput(f"{where}.input_schema is missing", field=f"{where}.input_schema")
    check_schema(tool.input_schema, f"{where}.input_schema")
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _choice(body: CountRequest, names: Sequence[str]) -> str:
    given = body.tool_choice
    if given is None or given.type in ("auto", "none"):
        return "none" if given is not None and given.type == "none" else "auto"
    if not names:
        raise InvalidInput(f"tool_choice is {given.type!r}, and there are no tools", field="tool_choice")
    if given.type == "any":
        return "required"
    if given.name not in names:
        raise InvalidInput(
            f"tool_choice.name: there is no tool {given.name!r}",
            hint=f"there are {', '.join(names)}",
            field="tool_choice.name",
        )
    return f"function:{given.name}"


def _grammar(body: CountRequest) -> Grammar | None:
    wanted = body.output_config.format if body.output_config is not None else None
    return schema(wanted.schema, "output_config.format.schema") if wanted is not None else None


def _variables(body: CountRequest, max_tokens: int | None) -> dict[str, Any]:
    """Without ``thinking`` a model that can does not think: that is Anthropic's default."""
    thinking = body.thinking
    if thinking is not None and thinking.type == "enabled":
        budget = number(thinking.budget_tokens or 0, "thinking.budget_tokens", int, 1024, 1 << 24)
        if max_tokens is not None and budget >= max_tokens:
            raise InvalidInput(
                f"thinking.budget_tokens must be less than max_tokens ({max_tokens}), not {budget}",
                field="thinking.budget_tokens",
            )
    variables: dict[str, Any] = {"enable_thinking": thinking is not None and thinking.type != "disabled"}
    if body.output_config is not None and body.output_config.effort:
        variables["reasoning_effort"] = body.output_config.effort
    return variables

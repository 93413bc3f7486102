"""From the items and fields of OpenAI's responses to the one form that workers know. Values in, values out."""

from collections.abc import Sequence
from typing import Any

from app.api.messages import RemoteImage, data_url
from app.api.sampling import number, sampling
from app.api.structured import response_format
from app.api.tools import check_depth, choice, function
from app.errors import InvalidInput
from app.schema.responses import ResponseRequest
from engines.protocol import Generate

Items = list[dict[str, Any]]
Media = list[bytes | RemoteImage]

_ROLES = {"user": "user", "system": "system", "developer": "system", "assistant": "assistant"}
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_LOGPROBS = "message.output_text.logprobs"


def generation(body: ResponseRequest, earlier: Items, own: Items) -> tuple[Generate, Media]:
    """The request of one sequence, and its images. ``earlier`` are the items of the conversation before ``own``.
    Raises `InvalidInput` that names the field."""
    refuse_unsupported(body)
    reader = _Reader()
    if body.instructions:
        reader.messages.append({"role": "system", "content": body.instructions})
    reader.read(earlier, "previous_response_id")
    reader.read(own, "input")
    tools = _tools(body.tools)
    chosen, tools = choice(body.tool_choice, tools)
    return Generate(
        0,
        messages=reader.finish(),
        sampling=sampling({name: getattr(body, name) for name in ("temperature", "top_p", "top_k", "min_p", "seed")}),
        max_tokens=-1
        if body.max_output_tokens is None
        else number(body.max_output_tokens, "max_output_tokens", int, 1, 1 << 24),
        tools=tools,
        tool_choice=chosen,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        variables=_variables(body),
        grammar=response_format(body.text.format, "text.format") if body.text is not None else None,
        logprobs=_logprobs(body),
    ), reader.media


def worker_field(name: str) -> str:
    """What the caller knows as the field that a worker calls ``name``."""
    if name in ("grammar", "response_format"):
        return "text.format"
    return "input" if name.startswith(("messages", "media[")) else name


def refuse_unsupported(body: ResponseRequest) -> None:
    """Raises `InvalidInput` for what would change the answer and is not done here."""
    if body.truncation not in (None, "disabled"):
        raise InvalidInput(
            f"truncation must be disabled, not {body.truncation!r}: a prompt is never cut", field="truncation"
        )
    for name, hint in (
        ("background", "wait for the answer, or stream it"),
        ("conversation", "use previous_response_id, or send the items"),
        ("prompt", "send the text itself as input and instructions"),
    ):
        if getattr(body, name):
            raise InvalidInput(f"{name} is not supported", hint=hint, field=name)


def normal(given: str | Items) -> Items:
    """The input as items, each with its type, and the content of messages as parts. Raises `InvalidInput`."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not given:
        raise InvalidInput("input is empty", field="input")
    return [_normal(item, f"input[{index}]") for index, item in enumerate(given)]


def _normal(item: dict[str, Any], where: str) -> dict[str, Any]:
    check_depth(item, where)
    kind = item.get("type") or ("message" if "role" in item else None)
    if kind is None:
        raise InvalidInput(f"{where}.type is missing", field=f"{where}.type")
    if kind != "message":
        return item
    content = item.get("content")
    if isinstance(content, str):
        part = "output_text" if item.get("role") == "assistant" else "input_text"
        content = [{"type": part, "text": content}]
    return {**item, "type": "message", "content": content}


class _Reader:
    """Reads items in order. What an assistant says, thinks and calls between two other items is one message."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.media: Media = []
        self._names: dict[str, str] = {}

    def read(self, items: Items, where: str) -> None:
        for index, item in enumerate(items):
            place = f"{where}[{index}]"
            kind = item.get("type")
            if kind == "message":
                self._message(item, place)
            elif kind == "reasoning":
                texts = [_text(part, place) for part in item.get("content") or item.get("summary") or ()]
                turn = self._assistant()
                turn["reasoning_content"] = "\n".join(filter(None, [turn.get("reasoning_content", ""), *texts]))
            elif kind == "function_call":
                name, call_id = _string(item, "name", place), _string(item, "call_id", place)
                self._names[call_id] = name
                called = {"name": name, "arguments": _string(item, "arguments", place) or "{}"}
                call = {"id": call_id, "type": "function", "function": called}
                self._assistant().setdefault("tool_calls", []).append(call)
            elif kind == "function_call_output":
                self._output(item, place)
            else:
                raise InvalidInput(
                    f"{place}: an item of type {kind!r} is not supported",
                    hint="send message, function_call, function_call_output or reasoning",
                    field=f"{place}.type",
                )

    def _message(self, item: dict[str, Any], where: str) -> None:
        role = _ROLES.get(item["role"]) if isinstance(item.get("role"), str) else None
        if role is None:
            raise InvalidInput(
                f"{where}.role must be one of {', '.join(_ROLES)}, not {item.get('role')!r}", field=f"{where}.role"
            )
        parts = self._parts(item.get("content"), f"{where}.content", images=role == "user")
        if role == "assistant":
            self._assistant()["content"] += parts
        else:
            self.messages.append({"role": role, "content": parts})

    def _output(self, item: dict[str, Any], where: str) -> None:
        call_id, output = _string(item, "call_id", where), item.get("output")
        if call_id not in self._names:
            raise InvalidInput(
                f"{where}.call_id: no function_call before has the call_id {call_id!r}", field=f"{where}.call_id"
            )
        parts = (
            [{"type": "text", "text": output}]
            if isinstance(output, str)
            else self._parts(output, f"{where}.output", images=True)
        )
        message = {"role": "tool", "tool_call_id": call_id, "name": self._names[call_id], "content": parts}
        self.messages.append(message)

    def _assistant(self) -> dict[str, Any]:
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": []})
        return self.messages[-1]

    def _parts(self, given: Any, where: str, images: bool) -> list[dict[str, Any]]:
        if not isinstance(given, list):
            raise InvalidInput(f"{where}: expected a text or a list of parts", field=where)
        parts: list[dict[str, Any]] = []
        for index, part in enumerate(given):
            place = f"{where}[{index}]"
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "input_image" and images:
                parts.append({"type": "image", "media": len(self.media)})
                self.media.append(_image(part, place))
            else:
                parts.append({"type": "text", "text": _text(part, place)})
        return parts

    def finish(self) -> list[dict[str, Any]]:
        """Content of text alone becomes one text, as templates expect it."""
        for message in self.messages:
            parts = message["content"]
            if isinstance(parts, list) and all(part["type"] == "text" for part in parts):
                message["content"] = "\n".join(part["text"] for part in parts)
        return self.messages


def _text(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text", "text", "reasoning_text", "summary_text"):
        return _string(part, "text", where)
    if kind == "refusal":
        return _string(part, "refusal", where)
    told = f"content of type {kind!r} is not supported here" if kind else "a part needs a type"
    raise InvalidInput(f"{where}: {told}", hint="send text, or input_image from the user", field=f"{where}.type")


def _image(part: dict[str, Any], where: str) -> bytes | RemoteImage:
    url = part.get("image_url")
    if not isinstance(url, str):
        raise InvalidInput(
            f"{where}.image_url: expected a URL; files are not kept here",
            hint="send data:image/png;base64,… with the image in it",
            field=f"{where}.image_url",
        )
    if url.lower().startswith(("http://", "https://")):
        return RemoteImage(url, f"{where}.image_url")
    return data_url(url, f"{where}.image_url")


def _string(item: dict[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise InvalidInput(f"{where}.{name}: expected a text", field=f"{where}.{name}")
    return value


def _tools(given: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Tools as they are here without the inner object ``function`` of chat's."""
    names: set[str] = set()
    tools = []
    for index, tool in enumerate(given or ()):
        place = f"tools[{index}]"
        check_depth(tool, place)
        if tool.get("type") != "function":
            raise InvalidInput(
                f"{place}: there is no tool of type {tool.get('type')!r} here: nothing runs on the server",
                hint="send tools of type function, and run them yourself",
                field=f"{place}.type",
            )
        tools.append({"type": "function", "function": function(tool, place, names)})
    return tools


def _variables(body: ResponseRequest) -> dict[str, Any]:
    effort = body.reasoning.effort if body.reasoning is not None else None
    if effort is not None and effort not in _EFFORTS:
        raise InvalidInput(f"reasoning.effort must be {', '.join(_EFFORTS)}, not {effort!r}", field="reasoning.effort")
    return {} if effort is None else {"reasoning_effort": effort, "enable_thinking": effort != "none"}


def _logprobs(body: ResponseRequest) -> int:
    if body.top_logprobs is not None:
        return int(number(body.top_logprobs, "top_logprobs", int, 0, 20))
    return 0 if _LOGPROBS in (body.include or ()) else -1

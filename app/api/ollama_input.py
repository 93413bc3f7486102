"""From Ollama's requests to the one form that workers know. Pure."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from app.api import structured
from app.api.messages import base64_bytes
from app.api.sampling import number, sampling, stops
from app.api.tools import tools
from app.errors import InvalidInput
from app.schema.ollama import ChatRequest, GenerateRequest, KeepAlive, Message, Options
from engines.protocol import Generate, LanguageModel, Sampling

#: Ollama's own defaults.
DEFAULTS = Sampling(temperature=0.8, top_k=40, top_p=0.9, min_p=0.0, repeat_penalty=1.1, repeat_last_n=64)
_MOST_TOKENS = 1 << 24
_MOST_LOGPROBS = 20
#: No deployment has a smaller context.
_LEAST_CONTEXT = 32
#: What is kept longer than a year is kept for ever.
_LONGEST_S = 365 * 86_400.0
_LEVELS = ("low", "medium", "high")
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def keep_alive_s(given: KeepAlive) -> float | None:
    """Seconds, infinite for ever; `None` where nothing is said. Text is a duration as Go writes it (``1h30m``), or
    seconds. Raises `InvalidInput`."""
    if given is None or given == "":
        return None
    if isinstance(given, str):
        text = given.strip()
        sign, digits = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
        parts = _DURATION.findall(digits)
        if parts and "".join(map("".join, parts)) == digits:
            seconds = sign * sum(float(value) * _UNITS_S[unit] for value, unit in parts)
        elif re.fullmatch(r"\d{1,18}(\.\d*)?", digits):
            seconds = sign * float(digits)
        else:
            raise InvalidInput(
                f"keep_alive: {given!r} is no duration", hint='use seconds, or "5m"; -1 is for ever', field="keep_alive"
            )
    else:
        seconds = float(given)
    return math.inf if seconds < 0 or seconds > _LONGEST_S else seconds


def context_tokens(options: Options | None) -> int | None:
    """The context that the request needs, if it says so."""
    value = (options or {}).get("num_ctx")
    if value is None:
        return None
    tokens = int(number(value, "options.num_ctx", int, 0, _MOST_TOKENS))
    return max(tokens, _LEAST_CONTEXT) if tokens else None


def chat(request: ChatRequest, language: LanguageModel) -> tuple[Generate, list[bytes]]:
    """Raises `InvalidInput`."""
    _check(request, "completion", "chat", "model", language)
    generation = _generation(request, language)
    generation.messages, media = messages(request.messages or [])
    generation.tools = tools(request.tools)
    last = generation.messages[-1]
    generation.continue_final = last["role"] == "assistant" and not last.get("tool_calls")
    if media:
        _check(request, "vision", "images", "messages", language)
    return generation, media


def generate(request: GenerateRequest, language: LanguageModel) -> tuple[Generate, list[bytes]]:
    """Without ``request.context``, which needs the model's tokens. Raises `InvalidInput`."""
    for name in ("suffix", "template"):
        if getattr(request, name):
            hint = "write the whole prompt yourself, with raw" if name == "template" else "leave it out"
            raise InvalidInput(f"{name} is not supported", hint=hint, field=name)
    if request.raw and (request.system or request.context):
        name = "system" if request.system else "context"
        raise InvalidInput(f"raw mode does not support {name}", hint="put it into the prompt", field=name)
    _check(request, "completion", "generate", "model", language)
    generation = _generation(request, language)
    if request.raw:
        if request.images:
            raise InvalidInput("raw mode does not support images", hint="leave raw out", field="images")
        generation.prompt = request.prompt or ""
        return generation, []
    system = [Message(role="system", content=request.system)] if request.system else []
    user = Message(role="user", content=request.prompt or "")
    generation.messages, _ = messages([*system, user])
    media = _images(request.images, "images")
    _illustrate(generation.messages[-1], range(len(media)))
    if media:
        _check(request, "vision", "images", "images", language)
    return generation, media


def _check(
    request: ChatRequest | GenerateRequest, capability: str, what: str, field: str, language: LanguageModel
) -> None:
    """In Ollama's words, for which clients look."""
    if capability not in language.capabilities:
        can = ", ".join(language.capabilities) or "nothing"
        raise InvalidInput(f'"{request.model}" does not support {what}', hint=f"it can: {can}", field=field)


def _generation(request: ChatRequest | GenerateRequest, language: LanguageModel) -> Generate:
    options = request.options or {}
    context_tokens(options)
    predict = options.get("num_predict")
    most = -1 if predict is None else number(predict, "options.num_predict", int, -_MOST_TOKENS, _MOST_TOKENS)
    return Generate(
        0,
        sampling=sampling(options, "options.", DEFAULTS),
        max_tokens=most if most > 0 else -1,
        stop=stops(options.get("stop"), "options.stop"),
        grammar=_grammar(request.format),
        variables=_thinking(request, language),
        logprobs=_logprobs(request),
    )


def _grammar(given: str | dict[str, Any] | None) -> Any:
    if given is None or given == "":
        return None
    if given == "json":
        return structured.schema({}, "format")
    if isinstance(given, str):
        raise InvalidInput(f'format must be "json" or a JSON schema, not {given!r}', field="format")
    return structured.schema(given, "format")


def _thinking(request: ChatRequest | GenerateRequest, language: LanguageModel) -> dict[str, Any]:
    """Variables of the template. As in Ollama, a model that can think does, unless it is told not to."""
    think = request.think
    if isinstance(think, str) and think not in _LEVELS:
        raise InvalidInput(f"think must be true, false or one of {', '.join(_LEVELS)}, not {think!r}", field="think")
    if "thinking" not in language.capabilities:
        if think:
            _check(request, "thinking", "thinking", "think", language)
        return {}
    effort = {"reasoning_effort": think} if isinstance(think, str) else {}
    return {"enable_thinking": think is None or bool(think)} | effort


def _logprobs(request: ChatRequest | GenerateRequest) -> int:
    top = request.top_logprobs or 0
    if not 0 <= top <= _MOST_LOGPROBS:
        raise InvalidInput(f"top_logprobs must be between 0 and {_MOST_LOGPROBS}, not {top}", field="top_logprobs")
    return top if request.logprobs else -1


# --- messages ------------------------------------------------------------------------------------------


def messages(given: Sequence[Message]) -> tuple[list[dict[str, Any]], list[bytes]]:
    """In canonical form (`engines.protocol.Generate`), and the images that their parts number. Calls that Ollama leaves
    without an id get one, and the answers of tools are told apart by their order. Raises `InvalidInput`."""
    media: list[bytes] = []
    open_calls: list[dict[str, Any]] = []
    canonical = []
    for index, message in enumerate(given):
        where = f"messages[{index}]"
        role = "system" if message.role == "developer" else message.role
        entry: dict[str, Any] = {"role": role, "content": message.content or ""}
        if role == "assistant":
            if message.thinking:
                entry["reasoning_content"] = message.thinking
            if message.tool_calls:
                entry["tool_calls"] = open_calls = [
                    {
                        "id": call.id or f"call_{index}_{number}",
                        "type": "function",
                        "function": {
                            "name": call.function.name,
                            "arguments": json.dumps(call.function.arguments, ensure_ascii=False),
                        },
                    }
                    for number, call in enumerate(message.tool_calls)
                ]
                open_calls = list(open_calls)
        elif role == "tool":
            entry |= _answered(message, open_calls)
        images = _images(message.images, f"{where}.images")
        _illustrate(entry, range(len(media), len(media) + len(images)))
        media += images
        canonical.append(entry)
    return canonical, media


def _answered(message: Message, open_calls: list[dict[str, Any]]) -> dict[str, str]:
    """The call that a tool's message answers: by its id, else the first open one of its name, else the first."""
    found = next((call for call in open_calls if call["id"] == message.tool_call_id), None)
    if found is None and not message.tool_call_id:
        named = (call for call in open_calls if call["function"]["name"] == message.tool_name)
        found = next(named, open_calls[0] if open_calls and not message.tool_name else None)
    if found is not None:
        open_calls.remove(found)
        return {"tool_call_id": found["id"], "name": found["function"]["name"]}
    known = {"tool_call_id": message.tool_call_id, "name": message.tool_name}
    return {key: value for key, value in known.items() if value}


def _images(given: list[str] | None, where: str) -> list[bytes]:
    """Base64; some clients send a whole data URL."""
    return [
        base64_bytes(data.partition(",")[2] if data.startswith("data:") else data, f"{where}[{index}]")
        for index, data in enumerate(given or [])
    ]


def _illustrate(message: dict[str, Any], images: Sequence[int]) -> None:
    """Put images before the text, as Ollama does."""
    if images:
        text = [{"type": "text", "text": message["content"]}] if message["content"] else []
        message["content"] = [*({"type": "image", "media": image} for image in images), *text]

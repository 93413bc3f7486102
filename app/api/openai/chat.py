"""`/v1/chat/completions`."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from app.api import tools
from app.api.answer import Answer
from app.api.fields import said_as
from app.api.http import Request, Response, Stream, json
from app.api.images import Images
from app.api.messages import canonical
from app.api.openai import logprobs
from app.api.openai.answers import collect_all, fingerprint, start_all, timings, usage
from app.api.openai.generation import MOST_CHOICES, MOST_LOGPROBS, each_seed, field_names, generation, within
from app.api.openai.voices import ChatVoice, Frame, Last, events, finish_reason
from app.dataplane.dataplane import Dataplane
from app.errors import InvalidInput
from app.schema.openai import (
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
    ChatRequest,
    Function,
    ToolCall,
)
from engines.protocol import Generate

_decoder = msgspec.json.Decoder(ChatRequest)
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_KIND = "chat.completion.chunk"


class Chat:
    def __init__(self, dataplane: Dataplane, images: Images):
        self._dataplane, self._images = dataplane, images

    async def __call__(self, request: Request) -> Response | Stream:
        body = request.decode(_decoder)
        target, _ = self._dataplane.language(body.model)
        messages, images = canonical(body.messages)
        asked = ask(body, messages)
        media = await self._images.load(images)
        requests = each_seed(asked, within(body.n, "n", 1, MOST_CHOICES, 1))
        number, created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())
        legacy = _is_legacy(body)
        told = said_as(lambda field: field_names(body, asked).get(field, field))
        if body.stream:
            with told:
                started, resources = await start_all(self._dataplane, body.model, requests, request.arrived, media)
            with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            frame = Frame(_KIND, number, created, body.model, fingerprint(target), with_usage)
            voices = [ChatVoice(frame, index, legacy) for index in range(len(requests))]
            last = Last(frame, with_usage, bool(body.timings_per_token), len(requests))
            opening = b"".join(voice.opening for voice in voices)
            return Stream(events(started, voices, opening, last, request), resources=resources)
        with told:
            answers = await collect_all(self._dataplane, body.model, requests, request.arrived, media)
        return json(
            ChatCompletion(
                id=number,
                created=created,
                model=body.model,
                system_fingerprint=fingerprint(target),
                choices=[_choice(index, answer, legacy, asked.logprobs >= 0) for index, answer in enumerate(answers)],
                usage=usage(answers, len(answers)),
                timings=timings(answers[0]) if body.timings_per_token else msgspec.UNSET,
            )
        )


def ask(body: ChatRequest, messages: list[dict[str, Any]]) -> Generate:
    """The request as workers know it. Pure. Raises `InvalidInput` that names the field."""
    request = generation(body, -1)
    request.messages = messages
    if _is_legacy(body):
        names: set[str] = set()
        offered = [
            {"type": "function", "function": tools.function(entry, f"functions[{index}]", names)}
            for index, entry in enumerate(body.functions or [])
        ]
        # Its form is that of a function inside a tool choice.
        chosen = {"function": body.function_call} if isinstance(body.function_call, dict) else body.function_call
        request.tool_choice, request.tools = tools.choice(chosen, offered, "function_call")
        request.parallel_tool_calls = False
    else:
        request.tool_choice, request.tools = tools.choice(body.tool_choice, tools.tools(body.tools))
        request.parallel_tool_calls = body.parallel_tool_calls is not False
    request.parse = body.reasoning_format != "none" or bool(request.tools)
    request.variables = _variables(body)
    request.continue_final = _continues(body, messages)
    top = within(body.top_logprobs, "top_logprobs", 0, MOST_LOGPROBS, 0)
    if body.logprobs:
        request.logprobs = top
    elif top:
        raise InvalidInput("top_logprobs needs logprobs to be true", field="top_logprobs")
    return request


def _is_legacy(body: ChatRequest) -> bool:
    return bool(body.functions) and not body.tools


def _variables(body: ChatRequest) -> dict[str, Any]:
    tools.check_depth(body.chat_template_kwargs, "chat_template_kwargs")
    variables = dict(body.chat_template_kwargs or {})
    if body.enable_thinking is not None:
        variables["enable_thinking"] = body.enable_thinking
    effort = body.reasoning_effort
    if effort is not None:
        if effort not in _EFFORTS:
            raise InvalidInput(
                f"reasoning_effort must be {', '.join(_EFFORTS)}, not {effort!r}", field="reasoning_effort"
            )
        if effort == "none":
            variables["enable_thinking"] = False
        else:
            variables["reasoning_effort"] = effort
    return variables


def _continues(body: ChatRequest, messages: Sequence[dict[str, Any]]) -> bool:
    """vLLM's ``continue_final_message`` and ``add_generation_prompt``: the second, false, says the same."""
    field = "continue_final_message" if body.continue_final_message else "add_generation_prompt"
    if not body.continue_final_message and body.add_generation_prompt is not False:
        return False
    if body.continue_final_message and body.add_generation_prompt:
        raise InvalidInput(f"{field} and add_generation_prompt cannot both be true", field=field)
    if messages[-1]["role"] != "assistant" or messages[-1].get("tool_calls"):
        raise InvalidInput(f"{field}: the last message must be the assistant's own, without tool calls", field=field)
    return True


def _choice(index: int, answer: Answer, legacy: bool, likely: bool) -> ChatChoice:
    message = AnswerMessage(content=answer.text)
    if answer.reasoning:
        message.reasoning_content = answer.reasoning
    if answer.calls:
        message.content = answer.text or None
        calls = [ToolCall(call.id, Function(call.name, call.arguments)) for call in answer.calls]
        if legacy:
            message.function_call = calls[0].function
        else:
            message.tool_calls = calls
    told = logprobs.of_chat(answer.logprobs) if likely else None
    return ChatChoice(index, message, told, finish_reason(answer.finish_reason, legacy))

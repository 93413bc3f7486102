"""`/v1`: OpenAI's chat, completions and models over `dataplane.generate`."""

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from app.api import errors
from app.api.http import Request, Response, Route, Stream, json
from app.dataplane.dataplane import Dataplane
from app.errors import InvalidInput, PilothouseError
from app.schema.openai import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    ChunkChoice,
    Completion,
    CompletionChoice,
    CompletionRequest,
    Delta,
    ModelCard,
    ModelList,
    PromptTokensDetails,
    Usage,
)
from engines.protocol import Generate, Sampling, TokenEvent

_chat = msgspec.json.Decoder(ChatRequest)
_completion = msgspec.json.Decoder(CompletionRequest)
_encoder = msgspec.json.Encoder()

#: name -> (lowest, highest) that is meant; outside it is a 400, not a surprise.
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 5),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "top_k": (0, 1 << 20),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repeat_penalty": (0.1, 10),
    "repetition_penalty": (0.1, 10),
    "max_tokens": (0, 1 << 24),
    "max_completion_tokens": (0, 1 << 24),
    "min_tokens": (0, 1 << 24),
    "seed": (-(1 << 63), (1 << 64) - 1),
}


def _check(request: ChatRequest | CompletionRequest) -> None:
    """Raises `InvalidInput` for a value out of range, or a field that is not supported: never silently ignored."""
    for name, (low, high) in _RANGES.items():
        value = getattr(request, name, None)
        if value is not None and not low <= value <= high:
            raise InvalidInput(f"{name} must be between {low} and {high}, not {value}", field=name)
    if (request.n or 1) != 1 or (getattr(request, "best_of", None) or 1) != 1:
        raise InvalidInput("only one choice is given for each request", hint="leave n and best_of at 1", field="n")
    unsupported = {
        "tools": bool(getattr(request, "tools", None)),
        "response_format": (getattr(request, "response_format", None) or {}).get("type", "text") != "text",
        "suffix": bool(getattr(request, "suffix", None)),
        "echo": bool(getattr(request, "echo", False)),
        "logprobs": bool(request.logprobs),
    }
    for name, present in unsupported.items():
        if present:
            raise InvalidInput(f"{name} is not supported yet", hint=f"leave {name} out", field=name)


def _generation(request: ChatRequest | CompletionRequest, default_max: int) -> Generate:
    _check(request)
    defaults = Sampling()

    def pick(*values: Any) -> Any:
        return next(value for value in values if value is not None)

    sampling = Sampling(
        temperature=pick(request.temperature, defaults.temperature),
        top_p=pick(request.top_p, defaults.top_p),
        top_k=pick(request.top_k, defaults.top_k),
        min_p=pick(request.min_p, defaults.min_p),
        seed=request.seed,
        repeat_penalty=pick(request.repeat_penalty, request.repetition_penalty, 1.0),
        presence_penalty=pick(request.presence_penalty, 0.0),
        frequency_penalty=pick(request.frequency_penalty, 0.0),
    )
    stop = [request.stop] if isinstance(request.stop, str) else list(request.stop or [])
    return Generate(
        0,
        sampling=sampling,
        max_tokens=pick(getattr(request, "max_completion_tokens", None), request.max_tokens, default_max),
        min_tokens=request.min_tokens,
        stop=[text for text in stop if text],
        ignore_eos=request.ignore_eos,
        cache_prompt=request.cache_prompt,
    )


def _messages(request: ChatRequest) -> list[dict[str, Any]]:
    """Messages with plain text. Raises `InvalidInput` for a part that is not text."""
    if not request.messages:
        raise InvalidInput("messages is empty", field="messages")
    messages = []
    for index, message in enumerate(request.messages):
        content = message.content
        if isinstance(content, list):
            for part in content:
                if part.get("type") != "text":
                    raise InvalidInput(
                        f"content of type {part.get('type')!r} is not supported yet",
                        hint="send text",
                        field=f"messages[{index}].content",
                    )
            content = "".join(str(part.get("text", "")) for part in content)
        role = "system" if message.role == "developer" else message.role
        messages.append({"role": role, "content": content or ""})
    return messages


class _Answer:
    """Gathers what the events of one sequence say about it as a whole."""

    def __init__(self) -> None:
        self.prompt_tokens = self.cached_tokens = self.tokens = 0
        self.finish_reason: str | None = None

    def see(self, event: TokenEvent) -> None:
        self.prompt_tokens = event.prompt_tokens or self.prompt_tokens
        self.cached_tokens = event.cached_tokens or self.cached_tokens
        self.tokens += event.tokens
        self.finish_reason = event.finish_reason or None

    def usage(self) -> Usage:
        return Usage(
            self.prompt_tokens,
            self.tokens,
            self.prompt_tokens + self.tokens,
            PromptTokensDetails(self.cached_tokens),
        )


def _event(value: Any) -> bytes:
    return b"data: " + _encoder.encode(value) + b"\n\n"


class OpenAI:
    def __init__(self, dataplane: Dataplane):
        self._dataplane = dataplane

    async def chat(self, request: Request) -> Response | Stream:
        body = request.decode(_chat)
        generation = _generation(body, -1)
        generation.messages = _messages(body)
        number, created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())

        def chunk(choices: list[ChunkChoice], **more: Any) -> bytes:
            return _event(ChatChunk(id=number, created=created, model=body.model, choices=choices, **more))

        def say(event: TokenEvent) -> bytes:
            return chunk([ChunkChoice(0, Delta(content=event.text or None), event.finish_reason or None)])

        def whole(text: str, answer: _Answer) -> ChatCompletion:
            choice = ChatChoice(0, AnswerMessage(text), answer.finish_reason)
            return ChatCompletion(id=number, created=created, model=body.model, choices=[choice], usage=answer.usage())

        opening = chunk([ChunkChoice(0, Delta(role="assistant", content=""))])
        return await self._run(request, body, generation, opening, say, lambda usage: chunk([], usage=usage), whole)

    async def complete(self, request: Request) -> Response | Stream:
        body = request.decode(_completion)
        generation = _generation(body, 16)
        prompt = body.prompt
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], str):
            if len(prompt) > 1:
                raise InvalidInput(
                    "one prompt is answered for each request", hint="send one request a prompt", field="prompt"
                )
            prompt = prompt[0]
        if isinstance(prompt, str):
            generation.prompt = prompt
        else:
            if not all(isinstance(token, int) and 0 <= token < 1 << 31 for token in prompt):
                raise InvalidInput("prompt: expected a text or a list of tokens", field="prompt")
            generation.prompt_tokens = prompt  # type: ignore[assignment]
        number, created = f"cmpl-{secrets.token_hex(12)}", int(time.time())

        def completion(choices: list[CompletionChoice], **more: Any) -> Completion:
            return Completion(id=number, created=created, model=body.model, choices=choices, **more)

        def say(event: TokenEvent) -> bytes:
            return _event(completion([CompletionChoice(0, event.text, event.finish_reason or None)]))

        def whole(text: str, answer: _Answer) -> Completion:
            return completion([CompletionChoice(0, text, answer.finish_reason)], usage=answer.usage())

        return await self._run(
            request, body, generation, b"", say, lambda usage: _event(completion([], usage=usage)), whole
        )

    async def _run(
        self,
        request: Request,
        body: ChatRequest | CompletionRequest,
        generation: Generate,
        opening: bytes,
        say: Callable[[TokenEvent], bytes],
        final: Callable[[Usage], bytes],
        whole: Callable[[str, _Answer], Any],
    ) -> Response | Stream:
        """The whole answer, or a stream whose first event has been seen: what is wrong with the request is known by
        then, and answered with a status of its own."""
        answer = _Answer()
        async with AsyncExitStack() as stack:
            events = await stack.enter_async_context(self._dataplane.generate(body.model, generation, request.arrived))
            if not body.stream:
                texts = []
                async for event in events:
                    answer.see(event)
                    texts.append(event.text)
                return json(whole("".join(texts), answer))
            first = await anext(events)
            answer.see(first)
            resources = stack.pop_all()
        usage = final if body.stream_options is not None and body.stream_options.include_usage else None
        return Stream(_chunks(opening, first, events, answer, say, usage, request.path), resources=resources)

    async def models(self, request: Request) -> Response:
        cards = [ModelCard(id=target.route, created=target.created) for target in self._dataplane.table.values()]
        return json(ModelList(data=cards))

    async def model(self, request: Request) -> Response:
        target = self._dataplane.find(request.params["model"])
        return json(ModelCard(id=target.route, created=target.created))

    def routes(self) -> list[Route]:
        return [
            Route(
                "GET",
                "/v1/models",
                self.models,
                "The routes that are served",
                "openai",
                response=ModelList,
                scope="inference",
            ),
            Route(
                "GET",
                "/v1/models/{model}",
                self.model,
                "One route",
                "openai",
                response=ModelCard,
                scope="inference",
            ),
            Route(
                "POST",
                "/v1/chat/completions",
                self.chat,
                "Chat with a language model",
                "openai",
                request=ChatRequest,
                response=ChatCompletion,
                stream=True,
                scope="inference",
            ),
            Route(
                "POST",
                "/v1/completions",
                self.complete,
                "Continue a text",
                "openai",
                request=CompletionRequest,
                response=Completion,
                stream=True,
                scope="inference",
            ),
        ]


async def _chunks(
    opening: bytes,
    first: TokenEvent,
    events: AsyncIterator[TokenEvent],
    answer: _Answer,
    say: Callable[[TokenEvent], bytes],
    final: Callable[[Usage], bytes] | None,
    path: str,
) -> AsyncGenerator[bytes, None]:
    """The events as server-sent events; an error that comes after the headers is told inside the stream."""
    if opening:
        yield opening
    try:
        if first.text or first.finish_reason:
            yield say(first)
        async for event in events:
            answer.see(event)
            if event.text or event.finish_reason:
                yield say(event)
    except PilothouseError as error:
        yield b"data: " + errors.render(error, path).body + b"\n\n"
        return
    if final is not None:
        yield final(answer.usage())
    yield b"data: [DONE]\n\n"

"""`/api`: Ollama's chat, completions and embeddings; models that are not deployed are, when they are asked for."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import msgspec
import numpy as np

from app.api import http, ollama_input, ollama_names
from app.api.answer import Answer, collect, start
from app.api.http import Request, Response, Route, Stream
from app.api.ollama_answers import NDJSON, ChatWriter, GenerationWriter, Writer, lines, ns
from app.api.ollama_names import Name
from app.dataplane.dataplane import Dataplane
from app.deployments.on_demand import OnDemand
from app.errors import ContextExceeded, InvalidInput
from app.registry.registry import Registry
from app.schema.ollama import (
    ChatRequest,
    ChatResponse,
    EmbeddingsRequest,
    EmbeddingsResponse,
    EmbedRequest,
    EmbedResponse,
    GenerateRequest,
    GenerateResponse,
    Options,
)
from engines.protocol import Embed, Generate, LanguageModel, Tokenize

_chat = msgspec.json.Decoder(ChatRequest)
_generate = msgspec.json.Decoder(GenerateRequest)
_embed = msgspec.json.Decoder(EmbedRequest)
_embeddings = msgspec.json.Decoder(EmbeddingsRequest)

T = TypeVar("T", ChatRequest, GenerateRequest)


class Ollama:
    def __init__(self, dataplane: Dataplane, registry: Registry, on_demand: OnDemand):
        self._dataplane, self._registry, self._on_demand = dataplane, registry, on_demand

    # --- text -----------------------------------------------------------------------------------------

    async def chat(self, request: Request) -> Response | Stream:
        body = request.decode(_chat)
        return await self._answer(request, body, not body.messages, ollama_input.chat, ChatWriter(body.model))

    async def generate(self, request: Request) -> Response | Stream:
        body = request.decode(_generate)
        empty = not body.prompt and not body.images
        return await self._answer(request, body, empty, ollama_input.generate, GenerationWriter(body.model))

    async def _answer(
        self,
        request: Request,
        body: T,
        empty: bool,
        read: Callable[[T, LanguageModel], tuple[Generate, list[bytes]]],
        writer: Writer,
    ) -> Response | Stream:
        """The whole answer, or a stream that begins when the request was accepted. ``empty``: the model is only to be
        loaded, or unloaded."""
        name = self._resolve(body.model)
        keep_alive_s = ollama_input.keep_alive_s(body.keep_alive)
        if empty and keep_alive_s == 0:
            released = await self._on_demand.release(name.route) or name.route not in self._dataplane.table
            return http.json(writer.nothing("unload" if released else "load"))
        async with AsyncExitStack() as stack:
            language = await self._hold(stack, name, keep_alive_s, body.options)
            loaded = time.perf_counter()
            if empty:
                return http.json(writer.nothing("load"))
            generation, media = read(body, language)
            if isinstance(body, GenerateRequest) and body.context:
                await self._go_on(name, body.context, generation)
            if body.stream is False:
                answer = await collect(self._dataplane, name.spoken, generation, request.arrived, media)
                tokens = await self._context(name, body, generation, media, answer)
                return http.json(writer.whole(answer, loaded, tokens))
            started = await start(self._dataplane, name.spoken, generation, request.arrived, media)
            await stack.enter_async_context(started.resources)
            resources = stack.pop_all()

        async def context(answer: Answer) -> list[int]:
            return await self._context(name, body, generation, media, answer)

        chunks = lines(started, Answer(request.arrived), loaded, writer, context, request.path)
        return Stream(chunks, NDJSON, resources=resources)

    def _resolve(self, model: str) -> Name:
        return ollama_names.resolve(model, self._dataplane.table, self._registry)

    async def _hold(
        self, stack: AsyncExitStack, name: Name, keep_alive_s: float | None, options: Options | None
    ) -> LanguageModel:
        """Have the model loaded until ``stack`` closes. Raises `PilothouseError`."""
        wanted = ollama_input.context_tokens(options)
        if wanted is not None and (trained := self._trained_context(name)):
            wanted = min(wanted, trained)  # as Ollama: more would not be used
        await stack.enter_async_context(self._on_demand.hold(name.route, name.model, keep_alive_s, wanted))
        language = self._dataplane.language(name.spoken)[0].language
        assert language is not None
        return language

    def _trained_context(self, name: Name) -> int | None:
        target = self._dataplane.table.get(name.route)
        if target is not None and target.language is not None:
            return target.language.trained_context or None
        value = self._registry.get(name.model).versions[-1].metadata.get("context_tokens")
        return value if isinstance(value, int) else None

    async def _tokens(self, name: Name, request: Tokenize) -> list[int]:
        return (await self._dataplane.tokenize(name.spoken, request)).tokens

    async def _go_on(self, name: Name, context: list[int], generation: Generate) -> None:
        """Make the prompt of ``generation`` begin with the tokens of an earlier conversation."""
        if not all(0 <= token < 1 << 31 for token in context):
            raise InvalidInput("context must be a list of tokens, as an earlier answer had it", field="context")
        rendered = await self._tokens(name, Tokenize(0, messages=generation.messages, variables=generation.variables))
        # The conversation has begun already: a second token for its beginning would confuse the model.
        opening = (await self._tokens(name, Tokenize(0, text="")))[:1]
        if opening and rendered[:1] == opening:
            rendered = rendered[1:]
        generation.prompt_tokens, generation.messages = [*context, *rendered], None

    async def _context(
        self, name: Name, body: ChatRequest | GenerateRequest, generation: Generate, media: list[bytes], answer: Answer
    ) -> list[int]:
        """The tokens of the prompt and of the answer, for a client that wants to go on from there."""
        if not isinstance(body, GenerateRequest) or body.raw or media:
            return []
        prompt = generation.prompt_tokens
        if prompt is None:
            prompt = await self._tokens(name, Tokenize(0, messages=generation.messages, variables=generation.variables))
        said = Tokenize(0, text=answer.text, add_special=False, parse_special=False)
        return [*prompt, *(await self._tokens(name, said))]

    # --- embeddings -----------------------------------------------------------------------------------

    async def embed(self, request: Request) -> Response:
        body = request.decode(_embed)
        texts = [body.input] if isinstance(body.input, str) else body.input or []
        if body.dimensions is not None and body.dimensions < 1:
            raise InvalidInput(f"dimensions must be at least 1, not {body.dimensions}", field="dimensions")
        name = self._resolve(body.model)
        async with AsyncExitStack() as stack:
            language = await self._hold(stack, name, ollama_input.keep_alive_s(body.keep_alive), body.options)
            loaded = time.perf_counter()
            if not texts or texts == [""]:
                return http.json(EmbedResponse(model=body.model, embeddings=[]))
            values, tokens = await self._embedded(name, texts, body.truncate is not False, language, request.arrived)
        if body.dimensions is not None and body.dimensions < values.shape[1]:
            values = values[:, : body.dimensions]
            values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
        answer = EmbedResponse(
            model=body.model,
            embeddings=values.tolist(),
            total_duration=ns(time.perf_counter() - request.arrived),
            load_duration=ns(loaded - request.arrived),
            prompt_eval_count=tokens,
        )
        return http.json(answer)

    async def embeddings(self, request: Request) -> Response:
        """As Ollama had it before `embed`."""
        body = request.decode(_embeddings)
        name = self._resolve(body.model)
        async with AsyncExitStack() as stack:
            language = await self._hold(stack, name, ollama_input.keep_alive_s(body.keep_alive), body.options)
            if not body.prompt:
                return http.json(EmbeddingsResponse([]))
            values, _ = await self._embedded(name, [body.prompt], True, language, request.arrived)
        return http.json(EmbeddingsResponse(values[0].tolist()))

    async def _embedded(
        self, name: Name, texts: list[str], cut: bool, language: LanguageModel, arrived: float
    ) -> tuple[np.ndarray, int]:
        """FP32 [texts, dimensions], and how many tokens were read. ``cut``: what does not fit is shortened, as Ollama's
        clients expect of embeddings unless they say otherwise."""
        inputs: list[str | list[int]] = list(texts)
        try:
            answer, data = await self._dataplane.embed(name.spoken, Embed(0, inputs), arrived)
        except ContextExceeded:
            if not cut:
                raise
            asked = (self._tokens(name, Tokenize(0, text=text)) for text in texts)
            inputs = [tokens[: language.context_tokens] for tokens in await asyncio.gather(*asked)]
            answer, data = await self._dataplane.embed(name.spoken, Embed(0, inputs), arrived)
        values = np.frombuffer(data, np.float32).reshape(len(texts), answer.dimensions)
        return values, sum(answer.tokens)

    def routes(self) -> list[Route]:
        def post(path: str, handler: Any, summary: str, request: Any, response: Any, stream: bool = True) -> Route:
            return Route(
                "POST",
                f"/api/{path}",
                handler,
                summary,
                "ollama",
                request=request,
                response=response,
                stream=stream,
                scope="inference",
            )

        return [
            post("chat", self.chat, "Chat with a language model", ChatRequest, ChatResponse),
            post("generate", self.generate, "Answer a prompt", GenerateRequest, GenerateResponse),
            post("embed", self.embed, "Embed texts", EmbedRequest, EmbedResponse, False),
            post("embeddings", self.embeddings, "Embed one text", EmbeddingsRequest, EmbeddingsResponse, False),
        ]

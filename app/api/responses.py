"""`/v1/responses`: OpenAI's responses over `dataplane.generate`, kept in a `ResponseStore`."""

import re
import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from app.api import errors
from app.api.answer import Answer, Started, start
from app.api.fields import said_as
from app.api.http import Request, Response, Route, Stream, json
from app.api.images import Images
from app.api.outline import Outline
from app.api.response_events import Writer, closing
from app.api.response_store import ResponseStore
from app.api.responses_input import Items, generation, normal, worker_field
from app.dataplane.dataplane import Dataplane
from app.errors import InvalidInput, NotFound, PayloadTooLarge
from app.schema.responses import Deleted, ItemList, Reasoning, ResponseObject, ResponseRequest, TextConfig
from engines.protocol import Generate

_decode = msgspec.json.Decoder(ResponseRequest)
_encode = msgspec.json.Encoder().encode
_problem = msgspec.json.Decoder(dict[str, Any])

#: An item's id carries the number of the response that it came with (``i``) or out of (``o``).
_ITEM = re.compile(r"[a-z]+_([0-9a-f]{24})[io]\d+")
_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


class Responses:
    def __init__(self, dataplane: Dataplane, kept: ResponseStore, images: Images):
        self._dataplane, self._kept, self._images = dataplane, kept, images

    async def create(self, request: Request) -> Response | Stream:
        body = request.decode(_decode)
        number = secrets.token_hex(12)
        own = identified(await self._resolve(normal(body.input)), number)
        earlier: Items = []
        if body.previous_response_id is not None:
            for kept in await self._kept.chain(body.previous_response_id, "previous_response_id"):
                earlier += kept.input + kept.response["output"]
        wanted, media = generation(body, earlier, own)
        images = await self._images.load(media)
        response = _response(body, wanted, number)
        response.store = response.store and self._kept.limit > 0
        items = _encode(own) if response.store else b""
        if len(items) > self._kept.limit_bytes:
            raise PayloadTooLarge(
                "the input is larger than all that is kept of responses",
                hint="send store: false, or raise responses_mb",
                field="input",
            )
        with said_as(worker_field):
            started = await start(self._dataplane, body.model, wanted, request.arrived, images)
        writer, outline, answer = Writer(response, number), Outline(), Answer(request.arrived)
        if body.stream:
            chunks = self._stream(started, writer, outline, answer, items, request)
            return Stream(chunks, resources=started.resources)
        async with started.resources:
            async for event in started.events():
                outline.see(answer.see(event))
        outline.end()
        writer.finish(answer, outline.blocks)
        await self._keep(response, items)
        return json(response)

    async def _stream(
        self, started: Started, writer: Writer, outline: Outline, answer: Answer, items: bytes, request: Request
    ) -> AsyncGenerator[bytes, None]:
        """The named events. The last one comes when the response is kept; an error that comes after the headers is
        told as ``error`` and ``response.failed``."""
        yield writer.begin()
        try:
            async for event in started.events():
                changes = outline.see(answer.see(event))
                if event.finish_reason:
                    changes += outline.end()
                if changes:
                    yield b"".join(writer.change(change, closing(answer)) for change in changes)
            last = writer.finish(answer, outline.blocks)
            await self._keep(writer.response, items)
        except Exception as error:
            writer.response.store = False
            told = errors.render(error, request.path)
            problem = _problem.decode(told.body)["error"]
            yield writer.fail(answer, outline.blocks, told.status, problem)
            return
        yield last

    async def _keep(self, response: ResponseObject, items: bytes) -> None:
        if response.store:
            await self._kept.put(items, response.id, response.previous_response_id, response)

    async def _resolve(self, items: Items) -> Items:
        """``items`` with those in place of which only an id was sent. Raises `NotFound`."""
        return [
            await self._referenced(item, f"input[{index}].id") if item.get("type") == "item_reference" else item
            for index, item in enumerate(items)
        ]

    async def _referenced(self, item: dict[str, Any], field: str) -> dict[str, Any]:
        number = str(item.get("id"))
        if found := _ITEM.fullmatch(number):
            kept = await self._kept.get(f"resp_{found[1]}", field)
            for known in [*kept.input, *kept.response["output"]]:
                if known["id"] == number:
                    return dict(known)
        raise NotFound(f"{field}: there is no item {number}", field=field, code="item_not_found")

    async def retrieve(self, request: Request) -> Response:
        if request.query.get("stream", "").lower() == "true":
            raise InvalidInput("a response that is kept is not streamed", hint="leave stream out", field="stream")
        return json((await self._kept.get(request.params["response"])).response)

    async def delete(self, request: Request) -> Response:
        await self._kept.delete(request.params["response"])
        return json(Deleted(request.params["response"]))

    async def cancel(self, request: Request) -> Response:
        await self._kept.get(request.params["response"])
        raise InvalidInput(
            "only responses that run in the background can be cancelled, and none does",
            hint="close the connection of a response that is being written",
        )

    async def input_items(self, request: Request) -> Response:
        """All that the model was given, earlier turns included as far as they are kept."""
        chain = await self._kept.chain(request.params["response"], whole=False)
        items: Items = []
        for kept in chain:
            items += kept.input + kept.response["output"]
        items = items[: len(items) - len(chain[-1].response["output"])]
        order = request.query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise InvalidInput(f"order must be asc or desc, not {order!r}", field="order")
        if order == "desc":
            items.reverse()
        if after := request.query.get("after"):
            places = [index for index, item in enumerate(items) if item["id"] == after]
            if not places:
                raise InvalidInput(f"after: there is no item {after}", field="after")
            items = items[places[0] + 1 :]
        page = items[: max(1, request.number("limit", 20, 100))]
        first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
        return json(ItemList(data=page, first_id=first, last_id=last, has_more=len(items) > len(page)))

    def routes(self) -> list[Route]:
        one, tag = "/v1/responses/{response}", "responses"
        return [
            Route(
                "POST",
                "/v1/responses",
                self.create,
                "Answer, and keep the answer",
                tag,
                request=ResponseRequest,
                response=ResponseObject,
                stream=True,
                scope="inference",
            ),
            Route("GET", one, self.retrieve, "One that is kept", tag, response=ResponseObject, scope="inference"),
            Route("DELETE", one, self.delete, "Forget it", tag, response=Deleted, scope="inference"),
            Route(
                "POST",
                f"{one}/cancel",
                self.cancel,
                "Always refused: none runs in the background",
                tag,
                scope="inference",
            ),
            Route(
                "GET",
                f"{one}/input_items",
                self.input_items,
                "What the model was given",
                tag,
                response=ItemList,
                scope="inference",
                query={"limit": "At most so many (20, up to 100)", "after": "An item's id", "order": "desc or asc"},
            ),
        ]


def identified(items: Items, number: str) -> Items:
    """Each with an id, its own or one of ours."""
    return [
        {**item, "id": item.get("id") or f"{_PREFIXES.get(item.get('type', ''), 'item')}_{number}i{index}"}
        for index, item in enumerate(items)
    ]


def _response(body: ResponseRequest, wanted: Generate, number: str) -> ResponseObject:
    """As it is before anything is written: what was asked for, with the values that hold."""
    return ResponseObject(
        id=f"resp_{number}",
        created_at=int(time.time()),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        model=body.model,
        parallel_tool_calls=wanted.parallel_tool_calls,
        previous_response_id=body.previous_response_id,
        reasoning=body.reasoning or Reasoning(),
        store=body.store is not False,
        temperature=wanted.sampling.temperature,
        text=body.text or TextConfig(),
        tool_choice=body.tool_choice or "auto",
        tools=[{"strict": False, "description": None, "parameters": None} | tool for tool in body.tools or ()],
        top_logprobs=max(0, wanted.logprobs),
        top_p=wanted.sampling.top_p,
        user=body.user,
    )

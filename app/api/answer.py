"""What every protocol that writes text shares: an answer gathered from its events, and a stream that begins only when
the request was accepted."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from app.dataplane.dataplane import Dataplane
from engines.protocol import Generate, TokenEvent, TokenLogprob


@dataclass(slots=True)
class Call:
    """A finished tool call; ``arguments`` is the text of a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class Answer:
    """Gathers what the events of one sequence say. Times are of `time.perf_counter`, in seconds."""

    arrived: float = field(default_factory=time.perf_counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    reasoning_tokens: int = 0
    finish_reason: str = ""
    stop: str = ""
    texts: list[str] = field(default_factory=list)
    reasonings: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    first_token_at: float = 0.0
    ended_at: float = 0.0

    def see(self, event: TokenEvent) -> TokenEvent:
        """Take ``event`` in, and give it back."""
        self.prompt_tokens = event.prompt_tokens or self.prompt_tokens
        self.cached_tokens = event.cached_tokens or self.cached_tokens
        if event.tokens:
            self.tokens += event.tokens
            self.first_token_at = self.first_token_at or time.perf_counter()
        if event.reasoning:
            self.reasonings.append(event.reasoning)
            self.reasoning_tokens += event.tokens
        if event.text:
            self.texts.append(event.text)
        for delta in event.tool_calls or ():
            if delta.index == len(self.calls):
                self.calls.append(Call(delta.id, delta.name, delta.arguments))
            else:
                self.calls[delta.index].arguments += delta.arguments
        if event.logprobs:
            self.logprobs += event.logprobs
        if event.finish_reason:
            self.finish_reason, self.stop = event.finish_reason, event.stop
            self.ended_at = time.perf_counter()
        return event

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def reasoning(self) -> str:
        return "".join(self.reasonings)


@dataclass(slots=True)
class Started:
    """A sequence that was accepted: the length of its prompt is known. Close ``resources`` when done with it."""

    first: TokenEvent
    rest: AsyncIterator[TokenEvent]
    resources: AsyncExitStack

    async def events(self) -> AsyncIterator[TokenEvent]:
        """All of its events, the first one included."""
        yield self.first
        async for event in self.rest:
            yield event


async def start(
    dataplane: Dataplane, model: str, request: Generate, arrived: float, media: Sequence[bytes] = ()
) -> Started:
    """Submit ``request`` and wait until it is accepted: what is wrong with it is raised here, before any header of an
    answer was sent. Raises `PilothouseError`."""
    async with AsyncExitStack() as stack:
        events = await stack.enter_async_context(dataplane.generate(model, request, arrived, media))
        first = await anext(events)
        return Started(first, events, stack.pop_all())


async def collect(
    dataplane: Dataplane, model: str, request: Generate, arrived: float, media: Sequence[bytes] = ()
) -> Answer:
    """The whole answer. Raises `PilothouseError`."""
    answer = Answer(arrived)
    async with dataplane.generate(model, request, arrived, media) as events:
        async for event in events:
            answer.see(event)
    return answer

"""`/v1/completions`."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from app.api.answer import Answer
from app.api.fields import said_as
from app.api.http import Request, Response, Stream, json
from app.api.openai import logprobs
from app.api.openai.answers import collect_all, fingerprint, start_all, timings, usage
from app.api.openai.generation import MOST_CHOICES, MOST_LOGPROBS, each_seed, field_names, generation, is_token, within
from app.api.openai.voices import CompletionVoice, Frame, Last, events, finish_reason
from app.dataplane.dataplane import Dataplane
from app.errors import InvalidInput
from app.schema.openai import Completion, CompletionChoice, CompletionRequest
from engines.protocol import Generate, Tokenize

_decoder = msgspec.json.Decoder(CompletionRequest)
_KIND = "text_completion"
#: As OpenAI's, where the request does not say.
_MAX_TOKENS = 16
_MOST_PROMPTS = 1024
Prompt = str | list[int]


class Completions:
    def __init__(self, dataplane: Dataplane):
        self._dataplane = dataplane

    async def __call__(self, request: Request) -> Response | Stream:
        body = request.decode(_decoder)
        target, _ = self._dataplane.language(body.model)
        given = prompts(body.prompt)
        n, best_of = _counts(body)
        asked = ask(body, given, best_of)
        number, created = f"cmpl-{secrets.token_hex(12)}", int(time.time())
        told = said_as(lambda field: field_names(body, asked[0]).get(field, field))
        echoes = [await self._text(body.model, prompt) if body.echo else "" for prompt in given]
        if body.stream:
            with told:
                started, resources = await start_all(self._dataplane, body.model, asked, request.arrived)
            with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            frame = Frame(_KIND, number, created, body.model, fingerprint(target), with_usage)
            voices = [CompletionVoice(frame, index) for index in range(len(asked))]
            opening = b"".join(voice.text(echo) for voice, echo in zip(voices, _repeat(echoes, n), strict=True) if echo)
            last = Last(frame, with_usage, bool(body.timings_per_token), n)
            return Stream(events(started, voices, opening, last, request), resources=resources)
        with told:
            answers = await collect_all(self._dataplane, body.model, asked, request.arrived)
        counted = usage(answers, best_of)
        likely = body.logprobs is not None
        choices = [
            _choice(index, echo + answer.text, answer, likely)
            for index, (answer, echo) in enumerate(zip(_best(answers, n, best_of), _repeat(echoes, n), strict=True))
        ]
        return json(
            Completion(
                id=number,
                created=created,
                model=body.model,
                system_fingerprint=fingerprint(target),
                choices=choices,
                usage=counted,
                timings=timings(answers[0]) if body.timings_per_token else msgspec.UNSET,
            )
        )

    async def _text(self, model: str, prompt: Prompt) -> str:
        if isinstance(prompt, str):
            return prompt
        return (await self._dataplane.tokenize(model, Tokenize(0, tokens=prompt))).text


def prompts(given: str | list[Any]) -> list[Prompt]:
    """The prompts in any of OpenAI's four forms. Raises `InvalidInput`."""
    if isinstance(given, str):
        return [given]
    if not given:
        raise InvalidInput("prompt is empty", field="prompt")
    if all(is_token(token) for token in given):
        return [given]
    if len(given) > _MOST_PROMPTS:
        raise InvalidInput(f"prompt has {len(given)} entries, more than {_MOST_PROMPTS}", field="prompt")
    for index, prompt in enumerate(given):
        if not (isinstance(prompt, str) or (prompt and isinstance(prompt, list) and all(map(is_token, prompt)))):
            field = f"prompt[{index}]"
            raise InvalidInput(f"{field}: expected a text or a list of tokens", field=field)
    return given


def _counts(body: CompletionRequest) -> tuple[int, int]:
    """How many choices to give for a prompt, and out of how many."""
    n = within(body.n, "n", 1, MOST_CHOICES, 1)
    best_of = within(body.best_of, "best_of", 1, MOST_CHOICES, n)
    if best_of < n:
        raise InvalidInput(f"best_of is {best_of}, less than n, {n}", field="best_of")
    if best_of > n and body.stream:
        raise InvalidInput("best_of cannot be streamed", hint="leave it at n, or stream off", field="best_of")
    return n, best_of


def ask(body: CompletionRequest, given: Sequence[Prompt], best_of: int) -> list[Generate]:
    """``best_of`` requests for each prompt. Pure. Raises `InvalidInput` that names the field."""
    request = generation(body, _MAX_TOKENS)
    if body.suffix:
        raise InvalidInput(
            "suffix is not supported: the model writes on from the prompt only", hint="leave it out", field="suffix"
        )
    if body.logprobs is not None:
        if body.echo:
            raise InvalidInput(
                "echo with logprobs is not supported: those of the prompt are not known", field="logprobs"
            )
        request.logprobs = within(body.logprobs, "logprobs", 0, MOST_LOGPROBS, 0)
    elif best_of > (body.n or 1):
        request.logprobs = 0
    asked = []
    for prompt in given:
        fields = {"prompt": prompt} if isinstance(prompt, str) else {"prompt_tokens": prompt}
        asked += each_seed(msgspec.structs.replace(request, **fields), best_of)
    return asked


def _best(answers: list[Answer], n: int, best_of: int) -> list[Answer]:
    """The likeliest ``n`` of each ``best_of``, by the mean log-probability of their tokens."""
    if n == best_of:
        return answers
    chosen = []
    for first in range(0, len(answers), best_of):
        group = answers[first : first + best_of]
        chosen += sorted(group, key=lambda answer: logprobs.mean(answer.logprobs), reverse=True)[:n]
    return chosen


def _repeat(values: Sequence[str], times: int) -> list[str]:
    return [value for value in values for _ in range(times)]


def _choice(index: int, text: str, answer: Answer, likely: bool) -> CompletionChoice:
    told = logprobs.CompletionForm().of(answer.logprobs) if likely else None
    return CompletionChoice(index, text, told, finish_reason(answer.finish_reason))

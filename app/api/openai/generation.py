"""What a request for text asks of the model: the part that chat and completions share."""

from typing import Any

import msgspec

from app.api import structured
from app.api.sampling import number, sampling, seeds, stops
from app.errors import InvalidInput
from app.schema.openai import ChatRequest, CompletionRequest
from engines.protocol import Generate, Sampling

MOST_CHOICES = 128
MOST_LOGPROBS = 20
_MOST_TOKENS = 1 << 24
_MOST_PRIORITY = 1 << 31


def generation(body: ChatRequest | CompletionRequest, default_max_tokens: int) -> Generate:
    """The request as workers know it, without its prompt. Raises `InvalidInput` that names the field."""
    given = msgspec.structs.asdict(body)
    request = Generate(
        0,
        sampling=sampling(given),
        max_tokens=_max_tokens(given, default_max_tokens),
        min_tokens=within(body.min_tokens, "min_tokens", 0, _MOST_TOKENS, 0),
        stop=stops(body.stop),
        ignore_eos=bool(body.ignore_eos),
        cache_prompt=body.cache_prompt is not False,
        grammar=structured.grammar(given),
        priority=within(body.priority, "priority", -_MOST_PRIORITY, _MOST_PRIORITY, 0),
    )
    if 0 <= request.max_tokens < request.min_tokens:
        raise InvalidInput(
            f"min_tokens is {request.min_tokens}, more than the {request.max_tokens} that are allowed",
            field="min_tokens",
        )
    return request


def field_names(body: ChatRequest | CompletionRequest, request: Generate) -> dict[str, str]:
    """What the worker calls otherwise than the client: see `app.api.fields`."""
    names = {"prompt_tokens": "prompt"}
    if constraint := structured.named(msgspec.structs.asdict(body)):
        names |= dict.fromkeys(("grammar", "response_format"), constraint)
    for index, message in enumerate(request.messages or ()):
        if isinstance(message["content"], list):
            for place, part in enumerate(message["content"]):
                if part["type"] == "image":
                    names[f"media[{part['media']}]"] = f"messages[{index}].content[{place}].image_url"
    return names


def _max_tokens(given: dict[str, Any], default: int) -> int:
    for name in ("max_completion_tokens", "max_tokens", "n_predict"):
        if given.get(name) is not None:
            return within(given[name], name, -1, _MOST_TOKENS, default)
    return default


def within(value: int | None, field: str, low: int, high: int, default: int) -> int:
    """``value``, or ``default`` for None. Raises `InvalidInput` outside of ``low`` to ``high``."""
    return default if value is None else int(number(value, field, int, low, high))


def each_seed(request: Generate, count: int) -> list[Generate]:
    """``count`` requests like ``request``, each with a seed of its own."""
    if count == 1:
        return [request]
    chosen: list[Sampling] = seeds(request.sampling, count)
    return [msgspec.structs.replace(request, sampling=entry) for entry in chosen]


def is_token(value: Any) -> bool:
    """Whether it may be the number of a token; whether the model has it, the worker knows."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31

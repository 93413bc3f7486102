"""The description of the HTTP API: OpenAPI 3.1, built from the route table, and the page that shows it."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import msgspec

from app.paths import resource
from app.schema.manage import Problem

_BRACES = re.compile(r"\{(\w+)\}")

#: What each group is, in the order of the page.
TAGS = {
    "openai": "Chat and completions in OpenAI's protocol; a model is a route.",
    "responses": "OpenAI's responses: named events, and conversations that are kept.",
    "anthropic": "Anthropic's messages; a model is a route.",
    "tokens": "llama-server's tokenizer and template endpoints.",
    "kserve": "Tensor models in the Open Inference Protocol, as Triton's clients speak it.",
    "ollama": "Language models as Ollama's clients know them; one that is not deployed is, when it is asked for.",
    "deployments": "What should be served, and what is.",
    "models": "The catalogue and the registry.",
    "jobs": "Downloads and other long work.",
    "station": "This machine, its engines and settings, and what happens on it.",
    "health": "Health, metrics and this description.",
}


#: What a failure means.
_MEANING = {
    400: "What was sent is wrong; the message names the field",
    401: "A key is needed",
    403: "The key, the Host or the Origin is not allowed",
    404: "There is no such thing",
    409: "Not in the state that it is in",
    413: "The body is too large",
    429: "Too many requests are waiting; retry after the time that is said",
    502: "The engine, or a source elsewhere, failed",
    503: "Not ready, or too many requests are waiting; retry after the time that is said",
    504: "It took longer than its timeout",
    507: "Not enough memory or disk",
    529: "Overloaded; retry later",
}


class Operation(Protocol):
    """What is read of a route of `app.api.http`."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def tag(self) -> str: ...
    @property
    def request(self) -> Any: ...
    @property
    def response(self) -> Any: ...
    @property
    def status(self) -> int: ...
    @property
    def stream(self) -> bool: ...
    @property
    def scope(self) -> str: ...
    @property
    def query(self) -> Mapping[str, str]: ...


class _OpenAIProblem(msgspec.Struct):
    message: str
    type: str
    code: str
    param: str | None = None


class OpenAIError(msgspec.Struct):
    """The envelope of errors under /v1."""

    error: _OpenAIProblem


class _AnthropicProblem(msgspec.Struct):
    type: str
    message: str


class AnthropicError(msgspec.Struct):
    """The envelope of errors under /v1/messages."""

    error: _AnthropicProblem
    type: str = "error"


class KServeError(msgspec.Struct):
    """The envelope of errors under /v2 and /api."""

    error: str


class ManageError(msgspec.Struct):
    """The envelope of errors everywhere else."""

    error: Problem


def document(routes: Iterable[Operation], version: str) -> dict[str, Any]:
    """The OpenAPI document as plain values, ready to be encoded as JSON. Pure."""
    routes = list(routes)
    bodies = (entry for route in routes for entry in (route.request, route.response))
    types = [entry for entry in bodies if entry not in (None, bytes)]
    types += [OpenAIError, AnthropicError, KServeError, ManageError]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    # By identity: a type expression such as a union need not be hashable.
    schema_of = {id(entry): schema for entry, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of)
    tags = dict.fromkeys(
        [*(tag for tag in TAGS if any(route.tag == tag for route in routes)), *(route.tag for route in routes)]
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pilothouse",
            "version": version,
            "summary": "Serve, watch and change AI models on this workstation",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} | ({"description": TAGS[tag]} if tag in TAGS else {}) for tag in tags],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def docs_page() -> str:
    """One HTML page that shows `/openapi.json`; it loads nothing else, so it works offline."""
    return resource("docs.html").read_text(encoding="utf-8")


def _operation(route: Operation, schema_of: dict[int, dict[str, Any]]) -> dict[str, Any]:
    error = {"application/json": {"schema": schema_of[id(_error_of(route.path))]}}
    operation: dict[str, Any] = {
        "operationId": "_".join([route.method.lower(), *re.findall(r"\w+", route.path)]),
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": [_parameter(name, "path", "") for name in _BRACES.findall(route.path)]
        + [_parameter(name, "query", meaning) for name, meaning in route.query.items()],
        "responses": {
            str(route.status): _success(route, schema_of),
            **{str(status): {"description": _MEANING[status], "content": error} for status in sorted(_failures(route))},
        },
        # On loopback no key is needed unless one was set.
        "security": [] if route.scope == "open" else [{}, {"bearer": []}, {"apiKey": []}],
        "x-scope": route.scope,
    }
    if route.request is bytes:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    elif route.request is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_of[id(route.request)]}},
        }
    return operation


def _failures(route: Operation) -> set[int]:
    """The statuses that an operation can have where it fails; all of them have the same envelope."""
    body, changes = route.request is not None, route.method not in ("GET", "HEAD")
    codes = {403, 503}
    if route.scope != "open":
        codes.add(401)
    if body or route.query or "{" in route.path or changes:
        codes |= {400, 404}
    if body or changes:
        codes.add(413)
    if changes:
        codes |= {409, 429, 502, 504, 507}
    if route.path.startswith("/v2"):
        codes.discard(429)  # a full queue is 503, as Triton has it
    if route.path.startswith("/v1/messages"):
        codes = codes - {503, 507} | {529}
    return codes


def _parameter(name: str, place: str, meaning: str) -> dict[str, Any]:
    parameter: dict[str, Any] = {"name": name, "in": place, "required": place == "path", "schema": {"type": "string"}}
    return parameter | {"description": meaning} if meaning else parameter


def _success(route: Operation, schema_of: dict[int, dict[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.response is not None:
        content["application/json"] = {"schema": schema_of[id(route.response)]}
    if route.stream:
        content["application/x-ndjson" if route.path.startswith("/api/") else "text/event-stream"] = {
            "schema": {"type": "string"}
        }
    description = "Accepted" if route.status == 202 else "Success"
    return {"description": description} | ({"content": content} if content else {})


def _error_of(path: str) -> type:
    if path.startswith("/v1/messages"):
        return AnthropicError
    if path.startswith(("/v1/", "/tokenize", "/detokenize", "/apply-template", "/rerank")):
        return OpenAIError
    return KServeError if path == "/v2" or path.startswith(("/v2/", "/api/")) else ManageError

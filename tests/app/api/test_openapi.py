import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from app.api import openapi
from app.schema import manage


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    summary: str
    tag: str
    request: Any = None
    response: Any = None
    status: int = 200
    stream: bool = False
    scope: str = "management"
    query: Mapping[str, str] = field(default_factory=dict)


class Ask(msgspec.Struct):
    """A question."""

    model: str
    temperature: float = 0.8


class Answer(msgspec.Struct):
    text: str


ROUTES = [
    Route("GET", "/metrics", "Prometheus text", "health", scope="open"),
    Route("POST", "/v1/ask", "Ask", "openai", request=Ask, response=Answer, stream=True, scope="inference"),
    Route("GET", "/v2/models/{model}/versions/{version}", "Metadata", "kserve", response=Answer, scope="inference"),
    Route("GET", "/manage/v1/jobs", "Jobs", "station", response=manage.Page, query={"limit": "At most so many"}),
    Route("POST", "/manage/v1/jobs", "Start", "station", request=manage.JobRequest, response=manage.Job, status=202),
    Route("DELETE", "/manage/v1/jobs/{id}", "Forget", "station", status=204),
    Route("GET", "/manage/v1/events", "Changes", "station", stream=True),
    Route("PUT", "/manage/v1/files/{file}", "Keep", "station", request=bytes),
]


@pytest.fixture
def document() -> dict[str, Any]:
    return msgspec.json.decode(msgspec.json.encode(openapi.document(ROUTES, "1.2.3")))


def test_it_is_valid_openapi(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()
    assert document["info"]["version"] == "1.2.3"


def test_every_route_is_there_once(document: dict[str, Any]) -> None:
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    assert len(operations) == len(ROUTES)
    assert len({operation["operationId"] for operation in operations}) == len(ROUTES)


def test_parameters_of_path_and_query(document: dict[str, Any]) -> None:
    parameters = document["paths"]["/v2/models/{model}/versions/{version}"]["get"]["parameters"]
    assert [(entry["name"], entry["in"], entry["required"]) for entry in parameters] == [
        ("model", "path", True),
        ("version", "path", True),
    ]
    (limit,) = document["paths"]["/manage/v1/jobs"]["get"]["parameters"]
    assert (limit["name"], limit["in"], limit["required"]) == ("limit", "query", False)
    assert limit["description"] == "At most so many"


def test_bodies_refer_to_named_schemas(document: dict[str, Any]) -> None:
    ask = document["paths"]["/v1/ask"]["post"]
    assert ask["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Ask"}
    schemas = document["components"]["schemas"]
    assert schemas["Ask"]["required"] == ["model"]
    assert schemas["Ask"]["description"] == "A question."
    assert schemas["Ask"]["properties"]["temperature"]["default"] == 0.8
    start = document["paths"]["/manage/v1/jobs"]["post"]
    union = start["requestBody"]["content"]["application/json"]["schema"]
    assert union["discriminator"]["propertyName"] == "kind"
    for reference in re.findall(r"#/components/schemas/([^\"]+)", msgspec.json.encode(document).decode()):
        assert reference in schemas


def test_a_body_that_is_a_file(document: dict[str, Any]) -> None:
    body = document["paths"]["/manage/v1/files/{file}"]["put"]["requestBody"]
    assert body["content"] == {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def test_what_is_answered(document: dict[str, Any]) -> None:
    paths = document["paths"]
    assert set(paths["/v1/ask"]["post"]["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert set(paths["/manage/v1/events"]["get"]["responses"]["200"]["content"]) == {"text/event-stream"}
    assert "202" in paths["/manage/v1/jobs"]["post"]["responses"]
    assert "content" not in paths["/manage/v1/jobs/{id}"]["delete"]["responses"]["204"]


@pytest.mark.parametrize(
    ("path", "method", "envelope"),
    [
        ("/v1/ask", "post", "OpenAIError"),
        ("/v2/models/{model}/versions/{version}", "get", "KServeError"),
        ("/manage/v1/jobs", "get", "ManageError"),
        ("/metrics", "get", "ManageError"),
    ],
)
def test_errors_are_in_the_envelope_of_the_protocol(
    document: dict[str, Any], path: str, method: str, envelope: str
) -> None:
    error = document["paths"][path][method]["responses"]
    assert {
        response["content"]["application/json"]["schema"]["$ref"] for code, response in error.items() if code >= "400"
    } == {f"#/components/schemas/{envelope}"}


def test_what_is_open_asks_for_no_key(document: dict[str, Any]) -> None:
    assert document["paths"]["/metrics"]["get"]["security"] == []
    assert {"bearer": []} in document["paths"]["/v1/ask"]["post"]["security"]


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = openapi.docs_page()
    assert 'fetch("/openapi.json")' in page
    assert "://" not in page
    loaded: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            loaded.extend(value or "" for name, value in attributes if name in ("src", "href"))

    Links().feed(page)
    assert loaded == ["data:,"], "only the empty icon, which keeps browsers from asking for one"

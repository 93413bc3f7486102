"""The HTTP client of the daemon, used by the command line: thin, synchronous, errors a user can read."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from app.errors import PilothouseError

#: Seconds to connect; a daemon on this machine answers at once or not at all.
CONNECT_S = 5.0
#: Seconds without a byte. Requests to models are bounded by the daemon's own ``request_timeout_s``.
READ_S = 900.0

JOB_ENDS = frozenset({"succeeded", "failed", "cancelled"})
DEPLOYMENT_ENDS = frozenset({"ready", "idle", "stopped", "failed"})


class ClientError(PilothouseError):
    """The daemon refused, failed or did not answer; ``status`` is the HTTP status, 0 where there was no answer."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        status: int = 0,
        code: str = "unreachable",
        details: dict[str, Any] | None = None,
    ):
        super().__init__(message, hint=hint, code=code, details=details)
        self.status = status


def problem(status: int, body: bytes) -> ClientError:
    """The error in ``body``, whichever protocol's envelope it has."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        error = body.decode(errors="replace").strip()[:200] or f"HTTP status {status}"
    if not isinstance(error, dict):
        return ClientError(str(error), status=status, code="http_error")
    return ClientError(
        str(error.get("message") or f"HTTP status {status}"),
        hint=str(error.get("hint") or ""),
        status=status,
        code=str(error.get("code") or error.get("type") or "http_error"),
        details=error.get("details") or {},
    )


def escape(name: str) -> str:
    """``name`` as one segment of a path."""
    return quote(name, safe="")


class Client:
    """A connection to the daemon at ``url``. Every method blocks, and raises `ClientError`.

    Safe to use from several threads. A context manager.
    """

    def __init__(self, url: str, key: str = ""):
        import httpx2

        self.url = url.rstrip("/")
        self.key = key
        self._http = httpx2.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(READ_S, connect=CONNECT_S),
            trust_env=False,  # a proxy is never meant for a daemon on loopback
            verify=self.url.startswith("https"),
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # --- one request, one answer ---------------------------------------------------------------------------

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        return self._call("GET", path, query=query)

    def post(self, path: str, body: Any) -> dict[str, Any]:
        return self._call("POST", path, body=body)

    def put(self, path: str, body: Any, **query: Any) -> dict[str, Any]:
        return self._call("PUT", path, query=query, body=body)

    def put_file(self, path: str, content: bytes) -> dict[str, Any]:
        """``content`` as it is."""
        return self._call("PUT", path, content=content)

    def delete(self, path: str, **query: Any) -> dict[str, Any]:
        return self._call("DELETE", path, query=query)

    def items(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """All of a list, page after page."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.get(path, **query)
            found += page["items"]
            if not page.get("next_cursor"):
                return found
            query["cursor"] = page["next_cursor"]

    def infer(self, route: str, request: dict[str, Any]) -> dict[str, Any]:
        """One Open Inference Protocol v2 request."""
        return self.post(f"/v2/models/{escape(route)}/infer", request)

    def infer_items(self, route: str, items: Sequence[bytes]) -> dict[str, Any]:
        """The same for declared steps, which take ``items`` (files, texts, rows as JSON) as they are."""
        content = b"".join(len(item).to_bytes(4, "little") + item for item in items)
        tensor = {"name": "item", "datatype": "BYTES", "shape": [len(items)]}
        head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(content)}}]}).encode()
        length = {"inference-header-content-length": str(len(head))}
        return self._call("POST", f"/v2/models/{escape(route)}/infer", content=head + content, headers=length)

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        import httpx2

        kind = "application/octet-stream" if content is not None else "application/json" if body is not None else ""
        headers = {**(headers or {}), **({"content-type": kind} if kind else {})}
        if body is not None:
            content = json.dumps(body).encode()
        params = {key: value for key, value in (query or {}).items() if value is not None}
        try:
            answer = self._http.request(method, path, params=params, content=content, headers=headers)
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from None
        if answer.status_code >= 400:
            raise problem(answer.status_code, answer.content)
        try:
            return json.loads(answer.content) if answer.content else {}
        except ValueError:
            raise ClientError(f"{self.url}{path} did not answer with JSON", status=answer.status_code) from None

    def _unreachable(self, error: Exception) -> ClientError:
        reason = str(error) or type(error).__name__
        return ClientError(
            f"the daemon at {self.url} did not answer ({reason})", hint="`pilothouse status` starts it again"
        )

    # --- streams -------------------------------------------------------------------------------------------

    def _stream(self, method: str, path: str, body: Any = None) -> Iterator[tuple[str, str]]:
        """``event``, ``data`` of each server-sent event until the server ends the stream."""
        import httpx2

        content = None if body is None else json.dumps(body).encode()
        headers = {"accept": "text/event-stream"} | ({} if body is None else {"content-type": "application/json"})
        try:
            with self._http.stream(
                method, path, content=content, headers=headers, timeout=httpx2.Timeout(None, connect=CONNECT_S)
            ) as answer:
                if answer.status_code >= 400:
                    raise problem(answer.status_code, answer.read())
                for event in httpx2.EventSource(answer, max_event_size=None):
                    yield event.event, event.data
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from None

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """``snapshot``: ``{"state": {kind: {key: value}}}``, then ``change``: ``{"kind", "key", "value"}``."""
        for event, data in self._stream("GET", "/manage/v1/events"):
            yield event, json.loads(data)

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """The state of everything now: kind → key → value."""
        for event, data in self.events():
            if event == "snapshot":
                return data["state"]
        raise ClientError(f"the daemon at {self.url} closed its event stream")

    def watch(self, kind: str, key: str) -> Iterator[dict[str, Any] | None]:
        """The state of one thing, then each change of it; `None` when it is gone."""
        for event, data in self.events():
            if event == "snapshot":
                yield data["state"].get(kind, {}).get(key)
            elif data["kind"] == kind and data["key"] == key:
                yield data["value"]

    def stream_chat(
        self,
        route: str,
        messages: list[dict[str, Any]],
        *,
        usage: dict[str, Any] | None = None,
        on_reasoning: Callable[[str], None] = lambda _: None,
        **options: Any,
    ) -> Iterator[str]:
        """The answer, piece by piece; ``on_reasoning`` hears what the model thinks before it. What the server counted
        is put into ``usage`` when the stream ends."""
        body = {"model": route, "messages": messages, **options}
        for choice in self._choices("/v1/chat/completions", body, usage):
            delta = choice.get("delta", {})
            if thought := delta.get("reasoning_content"):
                on_reasoning(thought)
            if text := delta.get("content"):
                yield text

    def _choices(self, path: str, body: dict[str, Any], usage: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        for _, data in self._stream("POST", path, body | streamed):
            if data == "[DONE]":
                return
            chunk = json.loads(data)
            if "error" in chunk:
                raise problem(200, data.encode())
            if usage is not None and chunk.get("usage"):
                usage.update(chunk["usage"])
            yield from chunk.get("choices", ())

    # --- waiting -------------------------------------------------------------------------------------------

    def wait_job(
        self, job: dict[str, Any], report: Callable[[dict[str, Any]], None] = lambda _: None
    ) -> dict[str, Any]:
        """Follow ``job`` to its end; ``report`` sees every state of it. Returns it when it has succeeded, else
        raises `ClientError` with its error."""
        path = f"/manage/v1/jobs/{escape(job['id'])}"
        report(job)
        if job["state"] not in JOB_ENDS:
            for state in self.watch("job", job["id"]):
                job = state or self.get(path)
                report(job)
                if job["state"] in JOB_ENDS:
                    break
        if job["state"] == "succeeded":
            return job
        if job["state"] == "cancelled":
            raise ClientError(f"{job['title']} was cancelled", status=200, code="cancelled")
        if job["state"] != "failed":
            raise ClientError(f"the daemon stopped during {job['title']}", hint="the job goes on when it starts again")
        raise failure(job.get("error"), f"{job['title']} failed")

    def wait_deployment(
        self, deployment: dict[str, Any], report: Callable[[dict[str, Any]], None] = lambda _: None
    ) -> dict[str, Any]:
        """Follow a deployment until it is ready, idle or stopped, as it was declared last; raises `ClientError` if that
        fails, also where what served before goes on."""
        path = f"/manage/v1/deployments/{escape(deployment['route'])}"
        report(deployment)
        if not _settled(deployment):
            for state in self.watch("deployment", deployment["route"]):
                deployment = state or self.get(path)
                report(deployment)
                if _settled(deployment):
                    deployment = self.get(path)  # with what the engine said of itself
                    break
        pending = deployment.get("pending")
        if pending is not None and pending["state"] == "failed":
            error = failure(pending.get("error"), f"{deployment['route']} could not be changed")
            error.hint = "; ".join(filter(None, (error.hint, pending.get("note"))))
            raise error
        if deployment["state"] == "failed":
            raise failure(deployment.get("error"), f"{deployment['route']} could not be started")
        if deployment["state"] not in DEPLOYMENT_ENDS:
            raise ClientError(
                "the daemon stopped", hint="`pilothouse status` starts it again and shows what became of it"
            )
        return deployment


def _settled(deployment: dict[str, Any]) -> bool:
    pending = deployment.get("pending")
    return deployment["state"] in DEPLOYMENT_ENDS and (pending is None or pending["state"] == "failed")


def failure(error: dict[str, Any] | None, otherwise: str) -> ClientError:
    """A `Problem` that a job or a deployment carries, as an error."""
    error = error or {}
    return ClientError(
        error.get("message") or otherwise,
        hint=error.get("hint") or "",
        status=200,
        code=error.get("code") or "failed",
        details=error.get("details") or {},
    )

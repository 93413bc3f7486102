"""One error, in the envelope of the protocol that was spoken. The only place that turns errors into HTTP."""

import logging

from app.api.http import Response, json
from app.errors import PilothouseError, QueueFull

log = logging.getLogger(__name__)

_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
#: Paths of llama-server's, which speaks OpenAI's envelope everywhere.
_LLAMA_SERVER = ("/tokenize", "/detokenize", "/apply-template", "/rerank", "/reranking")
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    507: "overloaded_error",
}


def render(error: Exception, path: str) -> Response:
    """The answer to ``error`` on ``path``. What is no `PilothouseError` is our defect: logged, told without trace."""
    if not isinstance(error, PilothouseError):
        log.error("unexpected error on %s", path, exc_info=error)
        error = PilothouseError("an unexpected error in Pilothouse; the log has the details")
    status = error.status
    text = f"{error.message}; {error.hint}" if error.hint else error.message
    body: object
    if path.startswith("/v1/messages"):
        # 529 is what Anthropic's clients know as overloaded, and retry.
        kind = _ANTHROPIC_TYPES.get(status, "api_error")
        status = 529 if status in (503, 507) else status
        body = {"type": "error", "error": {"type": kind, "message": text}}
    elif path == "/api" or path.startswith("/api/"):
        body = {"error": text}
    elif path.startswith("/v1/") or path in _LLAMA_SERVER:
        kind = _OPENAI_TYPES.get(status, "server_error")
        body = {"error": {"message": text, "type": kind, "code": error.code, "param": error.field or None}}
    elif path.startswith("/v2"):
        if isinstance(error, QueueFull):
            status = 503  # Triton's clients retry on 503
        elif status == 422:
            status = 400
        body = {"error": text}
    else:
        details = {**error.details, **({"field": error.field} if error.field else {})}
        body = {"error": {"code": error.code, "message": error.message, "hint": error.hint, "details": details}}
    headers = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s))))
    if allow := error.details.get("allow"):
        headers.append((b"allow", ", ".join(allow).encode()))
    return json(body, status, headers)

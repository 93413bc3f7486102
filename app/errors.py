"""Errors named for the caller's problem. Each has one HTTP status; `app.api.errors` turns it into the envelope
of the protocol that was spoken, once."""

from typing import Any


class PilothouseError(Exception):
    """``message`` says what happened, ``hint`` what to do about it, ``field`` which input is at fault."""

    status = 500
    code = "internal"
    retry_after_s: float | None = None

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        field: str = "",
        details: dict[str, Any] | None = None,
        retry_after_s: float | None = None,
        code: str | None = None,
    ):
        super().__init__(message)
        self.message, self.hint, self.field, self.details = message, hint, field, details or {}
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return self.message  # which may have been told in other words on the way


class InvalidInput(PilothouseError):
    status, code = 400, "invalid_input"


class ContextExceeded(InvalidInput):
    code = "context_length_exceeded"


class Unauthorized(PilothouseError):
    status, code = 401, "unauthorized"


class Forbidden(PilothouseError):
    status, code = 403, "forbidden"


class NotFound(PilothouseError):
    status, code = 404, "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class RouteNotFound(NotFound):
    code = "model_not_found"


class JobNotFound(NotFound):
    code = "job_not_found"


class MethodNotAllowed(PilothouseError):
    status, code = 405, "method_not_allowed"


class Conflict(PilothouseError):
    """The request is sound but the state of the thing does not allow it now."""

    status, code = 409, "conflict"


class PayloadTooLarge(PilothouseError):
    status, code = 413, "payload_too_large"


class QueueFull(PilothouseError):
    status, code, retry_after_s = 429, "queue_full", 1.0


class NotReady(PilothouseError):
    """The route exists, but no replica of it can answer now."""

    status, code, retry_after_s = 503, "not_ready", 1.0


class ReplicaLost(PilothouseError):
    """The worker died with the request in it. Safe to retry."""

    status, code, retry_after_s = 503, "replica_lost", 1.0


class DeadlineExceeded(PilothouseError):
    status, code = 504, "deadline_exceeded"


class EngineFailed(PilothouseError):
    """The engine refused or failed; ``code`` says how (`engines.protocol.Failed`)."""

    status, code = 502, "engine_failed"


class EngineUnavailable(Conflict):
    """No engine on this machine can serve the model now; the hint says what to install."""

    code = "engine_unavailable"


class ArtifactCorrupt(PilothouseError):
    """The bytes are not what they were said to be."""

    status, code = 502, "artifact_corrupt"


class InsufficientDisk(PilothouseError):
    status, code = 507, "insufficient_disk"


class InsufficientMemory(PilothouseError):
    status, code = 507, "insufficient_memory"


class SourceUnreachable(PilothouseError):
    status, code = 502, "source_unreachable"


class BadSetting(PilothouseError):
    """A setting of this installation is wrong; raised before the daemon serves."""

    status, code = 400, "bad_setting"

"""Triton's trace extension: timestamps of some requests, one JSON line each, in a file among the logs."""

import itertools
import logging
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import msgspec

from app.dataplane.inference import Inference
from app.errors import InvalidInput
from app.schema.kserve import TraceSettings

FILE = "traces.jsonl"
LEVELS = ("OFF", "TIMESTAMPS")
#: Models that may have settings of their own.
MOST_MODELS = 1024
_FILE_BYTES, _OLD_FILES = 16 << 20, 3
_NUMBERS = {"trace_rate": 1, "trace_count": -1, "log_frequency": 0}
_encoder = msgspec.json.Encoder()


class _Scope:
    """Settings of all models, or of one. ``own`` are those that were set here; the rest is inherited."""

    def __init__(self) -> None:
        self.own: dict[str, Any] = {}
        self.seen = self.written = 0


class Tracing:
    """`active` is read on the hot path: while it is false nothing is traced."""

    def __init__(self, folder: Path):
        self._path = folder / FILE
        self._all = _Scope()
        self._models: dict[str, _Scope] = {}
        self._numbers = itertools.count(1)
        self._file: logging.Logger | None = None
        self.active = False

    def settings(self, model: str = "") -> TraceSettings:
        scope = self._models.get(model)
        own = self._all.own | (scope.own if scope is not None else {})
        return TraceSettings(
            trace_file=FILE,
            trace_level=own.get("trace_level", ["OFF"]),
            trace_rate=str(own.get("trace_rate", 1000)),
            trace_count=str(own.get("trace_count", -1)),
            log_frequency=str(own.get("log_frequency", 0)),
            trace_mode="triton",
        )

    def update(self, changes: dict[str, Any], model: str = "") -> TraceSettings:
        """All or nothing; `None` for a value takes the setting back: of a model to that of all, of all to the
        default. Raises `InvalidInput` naming the setting."""
        checked = {key: None if value is None else _read(key, value) for key, value in changes.items()}
        if model and model not in self._models and len(self._models) >= MOST_MODELS:
            raise InvalidInput(f"{MOST_MODELS} models have trace settings already", field="model")
        scope = self._models.setdefault(model, _Scope()) if model else self._all
        scope.own = {key: value for key, value in {**scope.own, **checked}.items() if value is not None}
        if "trace_count" in checked:
            scope.written = 0
        if model and not scope.own:
            del self._models[model]
        scopes = [self._all, *self._models.values()]
        self.active = any("TIMESTAMPS" in entry.own.get("trace_level", ()) for entry in scopes)
        return self.settings(model)

    def record(self, request_id: str, answer: Inference, arrived: float, queued: float) -> None:
        """Write the trace of an answered request, if it is its turn. ``arrived`` and ``queued`` are of
        `time.perf_counter`: when the request came and when it was decoded."""
        model = answer.target.route
        settings = self.settings(model)
        scope = self._models.get(model, self._all)
        if "TIMESTAMPS" not in settings.trace_level or 0 <= int(settings.trace_count) <= scope.written:
            return
        scope.seen += 1
        if scope.seen % int(settings.trace_rate):
            return
        scope.written += 1
        line = {
            "id": next(self._numbers),
            "model_name": model,
            "model_version": answer.target.version,
            "request_id": request_id,
            "cached": answer.cached,
            "timestamps": _timestamps(answer, arrived, queued),
        }
        self._log().info(_encoder.encode(line).decode())

    def _log(self) -> logging.Logger:
        if self._file is None:
            self._file = logging.Logger("traces")  # of its own: neither found by name nor passed on to the root
            self._file.addHandler(
                RotatingFileHandler(
                    self._path, maxBytes=_FILE_BYTES, backupCount=_OLD_FILES, encoding="utf-8", delay=True
                )
            )
        return self._file

    def close(self) -> None:
        if self._file is not None:
            for handler in self._file.handlers:
                handler.close()


def _timestamps(answer: Inference, arrived: float, queued: float) -> list[dict[str, Any]]:
    """Unix nanoseconds under Triton's names. The worker tells durations, so its share begins where the queue ends;
    what it takes to reach the worker and to come back lies between COMPUTE_END and REQUEST_END."""
    now = time.perf_counter()
    base_ns = time.time_ns() - round(now * 1e9)
    moments = [("REQUEST_START", arrived), ("QUEUE_START", queued)]
    if not answer.cached:
        at = queued + answer.queue_s
        for name, duration_s in (
            ("COMPUTE_START", answer.input_s),
            ("COMPUTE_INPUT_END", answer.compute_s),
            ("COMPUTE_OUTPUT_START", answer.output_s),
            ("COMPUTE_END", 0.0),
        ):
            moments.append((name, at))
            at += duration_s
    moments.append(("REQUEST_END", now))
    return [{"name": name, "ns": base_ns + round(moment * 1e9)} for name, moment in moments]


def _read(key: str, value: Any) -> Any:
    if key == "trace_level":
        levels = [value] if isinstance(value, str) else value
        if levels == ["TENSORS"] or (isinstance(levels, list) and "TENSORS" in levels):
            raise InvalidInput("trace_level TENSORS is not kept: a trace has times only", field=key)
        if not isinstance(levels, list) or not levels or any(level not in LEVELS for level in levels):
            raise InvalidInput(f"{key} must be a list of {', '.join(LEVELS)}, not {value!r}", field=key)
        return ["OFF"] if "OFF" in levels else ["TIMESTAMPS"]
    if key in ("trace_file", "trace_mode"):
        default = FILE if key == "trace_file" else "triton"
        if value != default:
            raise InvalidInput(f"{key} cannot be changed, it is {default}", field=key)
        return None
    if key not in _NUMBERS:
        known = ", ".join(TraceSettings.__struct_fields__)
        raise InvalidInput(f"there is no trace setting {key!r}", hint=f"there are: {known}", field=key)
    text = str(value[0] if isinstance(value, list) and len(value) == 1 else value)
    digits = text.removeprefix("-")
    if isinstance(value, bool) or not digits.isdecimal() or len(digits) > 18 or int(text) < _NUMBERS[key]:
        raise InvalidInput(f"{key} must be a whole number from {_NUMBERS[key]}, not {value!r}", field=key)
    return int(text)

"""Every setting of the installation: a key in ``settings.toml``, ``PILOTHOUSE_<KEY>``, and for some a flag;
the later wins."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from app.errors import BadSetting


def _setting(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Settings:
    host: str = _setting("127.0.0.1", "Address to listen on. Anything beyond loopback requires an API key.")
    port: int = _setting(8484, "TCP port; 0 picks a free one.")
    ollama_port: int = _setting(
        0, "A second port for the same API, where Ollama's clients look for it (11434); 0 is none."
    )
    grpc_port: int = _setting(0, "A second port, for /v2 over gRPC (Triton's is 8001); 0 is none.")
    log_level: str = _setting("info", "debug, info, warning or error.")
    api_key: str = _setting(
        "", "Key for inference (Authorization: Bearer, or x-api-key). Empty: none is asked for on loopback."
    )
    management_key: str = _setting("", "Key for everything under /manage; it serves for inference too.")
    allowed_hosts: str = _setting(
        "", "Further Host headers to accept, comma separated (protection against DNS rebinding)."
    )
    allowed_origins: str = _setting("", "Browser origins that may call the API, comma separated; * for all.")
    max_body_mb: int = _setting(64, "Largest request body in MiB; more is answered 413.")
    queue_limit: int = _setting(256, "Requests that may wait for one deployment before it answers 429 or 503.")
    allow_remote_images: bool = _setting(
        False, "Fetch images that a request points to with http(s) URLs, from public addresses only."
    )
    request_timeout_s: float = _setting(600.0, "Longest time a request may wait and run.")
    drain_s: float = _setting(
        10.0, "Longest time for accepted requests to end when what serves them is replaced or stopped."
    )
    max_restarts: int = _setting(5, "Times a worker is restarted within ten minutes before its deployment is failed.")
    start_timeout_s: float = _setting(300.0, "Longest time a worker may take to load its model.")
    cache_url: str = _setting(
        "", "Where response caches keep answers: redis://HOST:PORT/DATABASE; empty: in the daemon's memory."
    )
    responses_limit: int = _setting(
        1000, "Answers of /v1/responses that are kept; the least recently used is forgotten first. 0: none is kept."
    )
    responses_mb: int = _setting(64, "Size of all answers of /v1/responses that are kept, in MiB.")
    download_connections: int = _setting(4, "Parallel ranges of one download.")
    parallel_jobs: int = _setting(2, "Jobs that run at the same time; the rest wait their turn.")
    log_mb: int = _setting(16, "Size at which the log file is rotated, in MiB; three old ones are kept.")
    hub_endpoint: str = _setting("", "Model hub to use instead of the public one (HF_ENDPOINT is honoured too).")
    offline: bool = _setting(False, "Never reach out to a hub or index (HF_HUB_OFFLINE is honoured too).")


KEYS = {entry.name: entry for entry in fields(Settings)}


def environment_name(key: str) -> str:
    return f"PILOTHOUSE_{key.upper()}"


def _parse(key: str, value: Any, where: str) -> Any:
    kind = KEYS[key].type
    try:
        if kind is bool and isinstance(value, str):
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}[
                value.lower()
            ]
        if kind is bool and not isinstance(value, bool):
            raise ValueError
        return kind(value)  # type: ignore[operator]
    except (ValueError, TypeError, KeyError):
        name = getattr(kind, "__name__", str(kind))
        raise BadSetting(f"setting {key} in {where} must be {name}, not {value!r}", field=key) from None


def load(
    file: Path, flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> tuple[Settings, dict[str, str]]:
    """The settings and, for each key, where its value came from (``default``, ``file``, ``environment``, ``flag``).

    Raises `BadSetting` naming the key and the place.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    sources = dict.fromkeys(KEYS, "default")
    if file.exists():
        try:
            entries = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadSetting(f"{file} is not valid TOML: {error}", hint="mend or remove the file") from None
        for key, value in entries.items():
            if key not in KEYS:
                raise BadSetting(
                    f"unknown setting {key} in {file}", field=key, hint="`pilothouse config` lists them all"
                )
            values[key], sources[key] = _parse(key, value, str(file)), "file"
    for key in KEYS:
        if (name := environment_name(key)) in environment:
            values[key], sources[key] = _parse(key, environment[name], name), "environment"
    for key, value in (flags or {}).items():
        if value is not None:
            values[key], sources[key] = _parse(key, value, f"--{key.replace('_', '-')}"), "flag"
    return Settings(**values), sources

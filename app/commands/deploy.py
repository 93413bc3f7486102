"""`pilothouse deploy`: get the model if it is not here, the runtime if it is missing, then the deployment."""

import json
from pathlib import Path
from typing import Any

from app.client import ClientError, escape
from app.commands.session import Session
from app.errors import InvalidInput


def deploy(session: Session, route: str, spec: dict[str, Any], *, install: bool, detach: bool) -> dict[str, Any]:
    """The deployment when it answers requests; with ``detach`` as it is at once, or the job that must come first.

    Raises `ClientError`.
    """
    for name in needed(spec):
        if job := missing_model(session, name):
            if detach:
                return job
            session.say(f"{name} is not here yet: pulling it")
            session.follow(job)
    try:
        return _put(session, route, spec, detach)
    except ClientError as error:
        runtime = error.details.get("runtime")
        if error.code != "engine_unavailable" or not runtime or not install:
            raise
        job = session.start_job(kind="runtime", runtime=runtime)
        if detach:
            return job
        session.say(f"{route} needs the runtime {runtime}: installing it")
        session.follow(job)
        return _put(session, route, spec, detach)


def read_pipeline(file: Path) -> dict[str, Any]:
    """The pipeline in ``file``, with or without ``{"pipeline": …}`` around it. Raises `InvalidInput`."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{file.name} is not JSON: {error}", hint="docs/tensors.md shows a pipeline") from None
    if isinstance(document, dict):
        document = document.get("pipeline", document)
    if not isinstance(document, dict):
        raise InvalidInput(f"{file.name} is not a pipeline", hint="docs/tensors.md shows one")
    return document


def needed(spec: dict[str, Any]) -> list[str]:
    """Names of the models that a deployment is made of, itself the first."""
    if "pipeline" in spec:
        return []
    references = [*spec.get("adapters", {}).values(), spec.get("projector"), spec.get("draft")]
    names = [spec["model"], *(reference.partition("@")[0] for reference in references if reference)]
    return list(dict.fromkeys(names))


def missing_model(session: Session, name: str) -> dict[str, Any] | None:
    """The job that pulls ``name`` from the catalogue; `None` if it is here. Raises `ClientError` if neither."""
    try:
        session.client.get(f"/manage/v1/models/{escape(name)}")
        return None
    except ClientError as error:
        if error.status != 404:
            raise
        known = [entry["name"] for entry in session.client.items("/manage/v1/catalog")]
        if name not in known:
            raise
        return session.start_job(kind="download", ref=name)


def _put(session: Session, route: str, spec: dict[str, Any], detach: bool) -> dict[str, Any]:
    deployment = session.client.put(f"/manage/v1/deployments/{escape(route)}", spec)
    if detach:
        return deployment
    with session.waiting(f"starting {route}") as progress:
        return session.client.wait_deployment(deployment, progress.deployment)

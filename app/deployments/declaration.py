"""What is declared for a route: whether it can be, and how it looks before anything runs. Reads, changes nothing."""

import contextlib

import msgspec

from app.clock import timestamp
from app.dataplane.routing import Table
from app.deployments import options, parts, pipelines
from app.deployments.pipeline_serving import ENGINE
from app.errors import InvalidInput, NotFound
from app.registry import cards
from app.registry.names import check_name
from app.registry.registry import Registry
from app.schema.manage import Deployment, DeploymentSpec, Pipeline
from engines.selection import ENGINES

MOST_REPLICAS = 64


def check(
    registry: Registry,
    route: str,
    spec: DeploymentSpec,
    table: Table,
    uses: pipelines.Uses,
    known: Pipeline | None = None,
) -> DeploymentSpec:
    """``spec`` with everything pinned, if it can be served as ``route``. A pipeline is checked against ``table`` and
    ``uses``, unless it is ``known``: declared already, so that it can be stopped and declared again whatever has become
    of its routes. Raises `PilothouseError` that names the field."""
    check_name(route)
    if spec.pipeline is not None:
        plain = _check_pipeline(spec)
        if spec.pipeline != known:
            pipelines.check(route, spec.pipeline, table, uses)
        return plain
    if not spec.model:
        raise InvalidInput("there is neither a model nor a pipeline", hint="name one of them", field="model")
    model, version = registry.resolve(spec.model if spec.version is None else f"{spec.model}@{spec.version}")
    engine = ENGINES.get(version.format, (spec.engine, ""))[0]
    settings, replicas = options.check_replicas(spec.settings, spec.replicas, MOST_REPLICAS)
    if (devices := len({name.strip() for name in spec.device.split(",")})) > replicas:
        raise InvalidInput(
            f"{replicas} replicas cannot use {devices} devices", hint=f"set replicas to {devices}", field="replicas"
        )
    spec = msgspec.structs.replace(
        spec,
        model=model.name,
        version=version.version,
        replicas=replicas,
        settings=options.check(settings, engine),
    )
    return parts.check(registry, spec, version)


def _check_pipeline(spec: DeploymentSpec) -> DeploymentSpec:
    """All but its graph."""
    if spec != DeploymentSpec(pipeline=spec.pipeline, stopped=spec.stopped, settings=spec.settings):
        raise InvalidInput(
            "a pipeline has no model, engine, device, replicas or parts of its own",
            hint="set them on the routes that it calls",
            field="pipeline",
        )
    for key in spec.settings:
        if key != "request_timeout_s":
            raise InvalidInput(
                f"{key} is not a setting of a pipeline",
                hint="set it on the routes that it calls; request_timeout_s is one of a pipeline",
                field=f"settings.{key}",
            )
    return msgspec.structs.replace(spec, settings=options.check(spec.settings, ENGINE))


def view(registry: Registry, route: str, spec: DeploymentSpec, created: str) -> Deployment:
    """The deployment that ``spec``, once checked, declares; nothing of it runs yet."""
    deployment = Deployment(
        route=route, model=route, version=1, task="", spec=spec, state="stopped", created=created, since=timestamp()
    )
    if spec.pipeline is not None:
        deployment.engine = ENGINE
        return deployment
    deployment.model, deployment.version = spec.model, spec.version or 0
    with contextlib.suppress(NotFound):  # removed behind our back; the start will say so
        model, version = registry.resolve(f"{spec.model}@{spec.version}")
        deployment.task, deployment.precision = model.task, version.precision
        deployment.labels = cards.labels_of(version)
    return deployment


def identity(registry: Registry, spec: DeploymentSpec) -> str | None:
    """Of all that decides what the model of ``spec`` answers, as it is described now; `None` where it is gone."""
    try:
        _, version = registry.resolve(f"{spec.model}@{spec.version}")
    except NotFound:
        return None
    return cards.identity(version)

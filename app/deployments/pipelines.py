"""Whether a pipeline can be: its steps against the routes that they call. Pure."""

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

from app.dataplane.routing import Table, Target
from app.errors import InvalidInput, NotFound, NotReady, PilothouseError
from app.registry.names import check_name
from app.schema.manage import Pipeline, PipelineStep
from engines.protocol import Signature, TensorSpec

MOST_STEPS = 64
#: route -> the routes that its pipeline calls
Uses = Mapping[str, frozenset[str]]


def routes(pipeline: Pipeline) -> frozenset[str]:
    """Those that it calls."""
    return frozenset(step.route for step in pipeline.steps)


def check(route: str, pipeline: Pipeline, table: Table, uses: Uses) -> Signature:
    """What the pipeline takes and gives, if it can be served as ``route``. ``uses``: the other pipelines.

    Raises `InvalidInput` that names the field, `NotReady` for a step whose route does not say yet what it takes.
    """
    if not 1 <= len(pipeline.steps) <= MOST_STEPS:
        raise InvalidInput(f"a pipeline has from 1 to {MOST_STEPS} steps", field="pipeline.steps")
    _check_names(pipeline)
    made = _made(pipeline)
    signatures = [
        _signature_of(route, step, f"pipeline.steps[{i}]", table, uses) for i, step in enumerate(pipeline.steps)
    ]
    _check_tensors(pipeline, signatures)
    _check_cycles(pipeline, made)
    values = _inputs(pipeline, signatures, made)
    for i, (step, signature) in enumerate(zip(pipeline.steps, signatures, strict=True)):
        for spec in signature.outputs:
            if value := step.outputs.get(spec.name):
                values[value] = (spec, f"{step.name}.{spec.name}", f"pipeline.steps[{i}].outputs.{spec.name}")
    for i, (step, signature) in enumerate(zip(pipeline.steps, signatures, strict=True)):
        for spec in signature.inputs:
            where = f"pipeline.steps[{i}].inputs.{spec.name}"
            value = step.inputs[spec.name]
            if value not in values:
                raise _never(value, where, values)
            given, source, _ = values[value]
            _check_fit(given, spec, source, f"{step.name}.{spec.name}", where)
    outputs = []
    if not pipeline.outputs:
        raise InvalidInput("a pipeline has at least one output", field="pipeline.outputs")
    for name, value in pipeline.outputs.items():
        if value not in values:
            raise _never(value, f"pipeline.outputs.{name}", values)
        spec = values[value][0]
        outputs.append(TensorSpec(name, spec.datatype, spec.shape, spec.batch_axis, spec.axes))
    inputs = [
        TensorSpec(value, spec.datatype, spec.shape, spec.batch_axis, spec.axes)
        for value, (spec, *_) in values.items()
        if value not in made
    ]
    return Signature(inputs, outputs, batched=all(signature.batched for signature in signatures))


def _check_names(pipeline: Pipeline) -> None:
    seen: set[str] = set()
    for i, step in enumerate(pipeline.steps):
        where = f"pipeline.steps[{i}].name"
        try:
            check_name(step.name)
        except InvalidInput as error:
            raise InvalidInput(f"{step.name!r} cannot be the name of a step", hint=error.hint, field=where) from None
        if step.name in seen:
            raise InvalidInput(f"two steps are called {step.name}", hint="name each step differently", field=where)
        seen.add(step.name)


def _made(pipeline: Pipeline) -> dict[str, str]:
    """Value → the step that makes it. Raises `InvalidInput` where it is defined twice."""
    made: dict[str, str] = {}
    given: set[str] = set()
    for i, tensor in enumerate(pipeline.inputs):
        if tensor.name in given:
            raise InvalidInput(f"two inputs are called {tensor.name}", field=f"pipeline.inputs[{i}].name")
        given.add(tensor.name)
    for i, step in enumerate(pipeline.steps):
        for output, value in step.outputs.items():
            first = f"step {made[value]}" if value in made else "an input" if value in given else ""
            if first:
                raise InvalidInput(
                    f"the value {value} is defined twice: by {first} and by step {step.name}",
                    hint="give each value a name of its own",
                    field=f"pipeline.steps[{i}].outputs.{output}",
                )
            made[value] = step.name
    return made


def _signature_of(route: str, step: PipelineStep, where: str, table: Table, uses: Uses) -> Signature:
    where += ".route"
    if step.route == route:
        raise InvalidInput(f"step {step.name} calls the pipeline itself", hint="name another route", field=where)
    if route in _reached(step.route, uses):
        raise InvalidInput(
            f"step {step.name} calls {step.route}, a pipeline that calls {route}",
            hint="pipelines must not call each other in a circle",
            field=where,
        )
    target = table.get(step.route)
    if target is None:
        there = ", ".join(sorted(name for name in table if name != route)) or "nothing"
        raise InvalidInput(f"there is no route {step.route!r}", hint=f"deployed: {there}", field=where)
    return _signature(step, target, where)


def _signature(step: PipelineStep, target: Target, where: str) -> Signature:
    if target.pool is not None:
        raise InvalidInput(
            f"{step.route} is a language model, and a pipeline passes tensors",
            hint="name a route of a tensor model",
            field=where,
        )
    if target.signature is None:
        raise NotReady(
            f"step {step.name}: {step.route} is {target.why_not or 'not ready'}, what it takes is not known yet",
            hint=f"wait until {step.route} is ready",
            field=where,
        )
    if not step.items:
        return target.signature
    if target.items is None:
        raise InvalidInput(
            f"{step.route} has no declared steps, it takes no items",
            hint="leave items out, or declare its steps with `pilothouse describe`",
            field=where.removesuffix(".route") + ".items",
        )
    return target.items


def _reached(start: str, uses: Uses) -> Iterator[str]:
    """``start`` and every route that a pipeline at ``start`` calls, itself or by others."""
    seen, open_ = {start}, [start]
    while open_:
        route = open_.pop()
        yield route
        for further in uses.get(route, ()):
            if further not in seen:
                seen.add(further)
                open_.append(further)


def _check_tensors(pipeline: Pipeline, signatures: list[Signature]) -> None:
    for i, (step, signature) in enumerate(zip(pipeline.steps, signatures, strict=True)):
        for kind, named, specs in (
            ("input", step.inputs, signature.inputs),
            ("output", step.outputs, signature.outputs),
        ):
            known = [spec.name for spec in specs]
            for name in named:
                if name not in known:
                    raise InvalidInput(
                        f"step {step.name}: {step.route} has no {kind} {name}",
                        hint=f"it has: {', '.join(known)}",
                        field=f"pipeline.steps[{i}].{kind}s.{name}",
                    )
        for spec in signature.inputs:
            if spec.name not in step.inputs:
                raise InvalidInput(
                    f"step {step.name}: the input {spec.name} of {step.route} gets no value",
                    hint=f"it is {spec.datatype} {spec.shape}",
                    field=f"pipeline.steps[{i}].inputs.{spec.name}",
                )
        if not step.outputs:
            raise InvalidInput(f"step {step.name} gives no output on", field=f"pipeline.steps[{i}].outputs")


def _check_cycles(pipeline: Pipeline, made: Mapping[str, str]) -> None:
    needs = {step.name: {made[v] for v in step.inputs.values() if v in made} for step in pipeline.steps}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        circle = " → ".join(reversed(error.args[1]))
        raise InvalidInput(
            f"the steps wait for each other: {circle}",
            hint="a step takes what earlier ones make",
            field="pipeline.steps",
        ) from None


_Value = tuple[TensorSpec, str, str]


def _inputs(pipeline: Pipeline, signatures: list[Signature], made: Mapping[str, str]) -> dict[str, _Value]:
    """The pipeline's own inputs as values: as declared, or as the steps take what no step makes."""
    values: dict[str, _Value] = {}
    for i, tensor in enumerate(pipeline.inputs):
        spec = TensorSpec(tensor.name, tensor.datatype, tensor.shape)
        values[tensor.name] = (spec, f"the input {tensor.name}", f"pipeline.inputs[{i}]")
    used: set[str] = set()
    for i, (step, signature) in enumerate(zip(pipeline.steps, signatures, strict=True)):
        for spec in signature.inputs:
            value = step.inputs[spec.name]
            used.add(value)
            if value in made:
                continue
            where = f"pipeline.steps[{i}].inputs.{spec.name}"
            if not pipeline.inputs:
                source = f"{step.name}.{spec.name}"
                if value in values:
                    other, its_source, _ = values[value]
                    _check_fit(other, spec, its_source, source, where)
                    values[value] = (_narrower(other, spec), source, where)
                else:
                    values[value] = (spec, source, where)
            elif value in values and values[value][0].batch_axis == -1 and spec.batch_axis != -1:
                old, source, at = values[value]
                values[value] = (TensorSpec(old.name, old.datatype, old.shape, spec.batch_axis), source, at)
    used |= set(pipeline.outputs.values())
    for i, tensor in enumerate(pipeline.inputs):
        if tensor.name not in used:
            raise InvalidInput(
                f"the input {tensor.name} is not used", hint="leave it out", field=f"pipeline.inputs[{i}].name"
            )
    return values


def _narrower(one: TensorSpec, other: TensorSpec) -> TensorSpec:
    shape = [a if a != -1 else b for a, b in zip(one.shape, other.shape, strict=True)]
    axis = one.batch_axis if one.batch_axis == other.batch_axis else -1
    return TensorSpec(one.name, one.datatype, shape, axis)


def _check_fit(given: TensorSpec, taken: TensorSpec, source: str, sink: str, where: str) -> None:
    if given.datatype != taken.datatype:
        raise InvalidInput(
            f"{sink} takes {taken.datatype}, and {source} is {given.datatype}", hint="types must be equal", field=where
        )
    if len(given.shape) != len(taken.shape) or any(
        have != want and -1 not in (have, want) for have, want in zip(given.shape, taken.shape, strict=True)
    ):
        raise InvalidInput(
            f"{sink} takes shape {taken.shape}, and {source} has {given.shape}",
            hint="both must have as many axes, and equal lengths where both are fixed",
            field=where,
        )


def _never(value: str, where: str, values: Mapping[str, _Value]) -> InvalidInput:
    return InvalidInput(
        f"the value {value} is never defined", hint=f"there are: {', '.join(values) or 'none'}", field=where
    )


def obstacle(route: str, pipeline: Pipeline, table: Table, uses: Uses) -> Signature | PilothouseError:
    """As `check`, for a pipeline that is declared already: what keeps it from being served is returned. A step's route
    that is gone, or not ready, can come back: `NotReady`."""
    for step in pipeline.steps:
        target = table.get(step.route)
        if target is None:
            return NotReady(
                f"step {step.name}: there is no route {step.route}", hint=f"deploy {step.route}, or change the pipeline"
            )
        if target.why_not:
            return NotReady(
                f"step {step.name}: {step.route} is {target.why_not}", hint=f"see {step.route} in `pilothouse status`"
            )
    try:
        return check(route, pipeline, table, uses)
    except (InvalidInput, NotFound, NotReady) as error:
        return error

"""May this request enter: pure checks against the signature and the limits, with errors that name the field."""

from app.dataplane.tensors import SIZES, Tensor, skip_strings, unpack_strings
from app.errors import InvalidInput
from engines.protocol import Signature, TensorSpec

#: An axis beyond this is a mistake, however few elements the others leave.
MOST_ELEMENTS = 1 << 40


def _shape(spec: TensorSpec) -> str:
    return "[" + ", ".join("any" if size == -1 else str(size) for size in spec.shape) + "]"


def _rows(signature: Signature) -> str:
    """Where they are counted, in words."""
    return ", ".join(f"{spec.name} along axis {spec.batch_axis}" for spec in signature.inputs if spec.batch_axis >= 0)


def order_inputs(signature: Signature, inputs: list[Tensor]) -> list[Tensor]:
    """The inputs in the order of the signature, each checked. Raises `InvalidInput` naming the input."""
    specs = signature.inputs
    if len(specs) == 1 == len(inputs) and specs[0].name == inputs[0].name:  # most models
        check(specs[0], inputs[0])
        return inputs
    given = {tensor.name: tensor for tensor in inputs}
    ordered = []
    for spec in specs:
        tensor = given.pop(spec.name, None)
        if tensor is None:
            raise InvalidInput(
                f"input {spec.name} is missing",
                hint=f"it is {spec.datatype} {_shape(spec)}",
                field=f"inputs.{spec.name}",
            )
        check(spec, tensor)
        ordered.append(tensor)
    if given or len(inputs) != len(ordered):
        name = next(iter(given), inputs[0].name if inputs else "")
        known = ", ".join(spec.name for spec in specs)
        raise InvalidInput(
            f"input {name} is unknown or given twice", hint=f"the model takes: {known}", field=f"inputs.{name}"
        )
    if signature.batched:
        pairs = zip(specs, ordered, strict=True)
        if len({tensor.shape[spec.batch_axis] for spec, tensor in pairs if spec.batch_axis >= 0}) > 1:
            raise InvalidInput(f"all inputs must have the same number of rows: {_rows(signature)}", field="inputs")
    if len(ordered) > 1:
        _check_lengths(signature, ordered)
    return ordered


def _check_lengths(signature: Signature, inputs: list[Tensor]) -> None:
    """Axes of one name have one length. A batch could hide that they do not: shorter inputs may be padded in it."""
    lengths: dict[str, tuple[int, str]] = {}
    for spec, tensor in zip(signature.inputs, inputs, strict=True):
        for name, size in zip(spec.axes, tensor.shape, strict=False):
            if name and lengths.setdefault(name, (size, spec.name))[0] != size:
                other, first = lengths[name]
                raise InvalidInput(
                    f"axis {name} is {other} long in {first} and {size} long in {spec.name}",
                    hint="inputs that share an axis have the same length there",
                    field=f"inputs.{spec.name}",
                )


def check(spec: TensorSpec, tensor: Tensor) -> None:
    where = f"inputs.{spec.name}"
    shape = tensor.shape
    if tensor.datatype != spec.datatype:
        raise InvalidInput(f"input {spec.name} must be {spec.datatype}, not {tensor.datatype}", field=where)
    fits, elements = len(shape) == len(spec.shape), 1
    for want, have in zip(spec.shape, shape, strict=False):
        fits = fits and want in (have, -1) and have >= 0
        elements *= have
    if not fits:
        raise InvalidInput(f"input {spec.name} must have shape {_shape(spec)}, not {shape}", field=where)
    if not 0 < elements <= MOST_ELEMENTS and max(shape) > MOST_ELEMENTS:
        raise InvalidInput(f"input {spec.name}: an axis of {shape} is too long", field=where)
    axis = max(spec.batch_axis, 0)
    if not elements and spec.shape[axis] == -1 and shape[axis] == 0:
        raise InvalidInput(f"input {spec.name} has no rows", field=where)
    if tensor.datatype == "BYTES":
        _check_strings(spec.name, tensor, elements)
        return
    need = elements * SIZES[tensor.datatype]
    if len(tensor.data) != need:
        raise InvalidInput(
            f"input {spec.name} has {len(tensor.data)} bytes, {tensor.datatype} {shape} needs {need}",
            field=where,
        )


def _check_strings(name: str, tensor: Tensor, elements: int) -> None:
    where = f"inputs.{name}"
    try:
        if skip_strings(tensor.data, 0, elements) == len(tensor.data):
            return
    except ValueError:
        pass  # there are fewer, or the last one is cut off
    try:
        have = len(unpack_strings(tensor.data))
    except ValueError as error:
        raise InvalidInput(f"input {name}: {error}", field=where) from None
    raise InvalidInput(f"input {name} has {have} elements, its shape {tensor.shape} needs {elements}", field=where)


def check_outputs(signature: Signature, names: list[str]) -> None:
    known = {spec.name for spec in signature.outputs}
    for name in names:
        if name not in known:
            raise InvalidInput(
                f"there is no output {name}",
                hint=f"the model gives: {', '.join(sorted(known))}",
                field=f"outputs.{name}",
            )

"""What a server and a model say of themselves, in the words of the protocol and in Triton's ModelConfiguration."""

from collections.abc import Mapping
from typing import Any

import app
from app.dataplane.items import labels
from app.dataplane.routing import Target
from app.errors import NotFound
from app.schema.kserve import ModelMetadata, ServerMetadata, TensorMetadata
from app.schema.manage import Deployment, Pipeline
from engines.protocol import Signature, TensorSpec

EXTENSIONS = [
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
]
#: As Triton calls an ONNX model.
_PLATFORMS = {"onnxruntime": "onnxruntime_onnx"}
LABEL_FILE = "labels.txt"


def server() -> ServerMetadata:
    return ServerMetadata("pilothouse", app.__version__, EXTENSIONS)


def signature(target: Target) -> Signature:
    """Raises `NotFound` for a language model, which the protocol does not know."""
    if target.signature is None:
        raise NotFound(f"{target.route} is a language model", hint="it answers on /v1/chat/completions")
    return target.signature


def model(target: Target) -> ModelMetadata:
    found = signature(target)
    return ModelMetadata(
        target.route,
        [str(target.version)],
        platform(target),
        [TensorMetadata(spec.name, spec.datatype, spec.shape) for spec in found.inputs],
        [TensorMetadata(spec.name, spec.datatype, spec.shape) for spec in found.outputs],
    )


def platform(target: Target) -> str:
    return _PLATFORMS.get(target.engine, target.engine)


def leading_batch(found: Signature) -> bool:
    """Whether every tensor batches along its first axis: the only form that ModelConfiguration has for it."""
    return found.batched and all(spec.batch_axis == 0 for spec in (*found.inputs, *found.outputs))


def config(target: Target, deployment: Deployment) -> dict[str, Any]:
    """ModelConfiguration in its JSON form (model_config.proto of Triton's common repository)."""
    found = signature(target)
    batched = leading_batch(found)
    settings = deployment.spec.settings
    answer: dict[str, Any] = {
        "name": target.route,
        "platform": platform(target),
        "backend": target.engine,
        "runtime": "",
        "version_policy": {"specific": {"versions": [target.version]}},
        "max_batch_size": target.max_batch_size if batched else 0,
        "input": [_input(spec, batched) for spec in found.inputs],
        "output": [_output(spec, batched, labels(target)) for spec in found.outputs],
        "instance_group": _instances(deployment),
        "default_model_filename": "model.onnx" if target.engine == "onnxruntime" else "",
        "parameters": {},
        "response_cache": {"enable": bool(settings.get("response_cache", False))},
    }
    if deployment.spec.pipeline is not None:
        answer["ensemble_scheduling"] = _steps(deployment.spec.pipeline)
        del answer["instance_group"]
    elif target.card.states:
        answer["sequence_batching"] = _sequences(found, target.card.states, settings)
    elif batched:
        answer["dynamic_batching"] = _batching(settings)
    return answer


def data_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def _dims(spec: TensorSpec, batched: bool) -> list[int]:
    return spec.shape[1:] if batched else spec.shape


def _input(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": data_type(spec.datatype),
        "format": "FORMAT_NONE",
        "dims": _dims(spec, batched),
        "is_shape_tensor": False,
        "allow_ragged_batch": False,
        "optional": False,
    }


def _output(spec: TensorSpec, batched: bool, names: list[str]) -> dict[str, Any]:
    classes = bool(names) and bool(spec.shape) and spec.shape[-1] == len(names)
    return {
        "name": spec.name,
        "data_type": data_type(spec.datatype),
        "dims": _dims(spec, batched),
        "label_filename": LABEL_FILE if classes else "",
        "is_shape_tensor": False,
    }


def _instances(deployment: Deployment) -> list[dict[str, Any]]:
    """One group a device; replicas are dealt to the devices in turn."""
    devices = [name.strip() for name in (deployment.device or "cpu").split(",")]
    groups = []
    for n, device in enumerate(devices):
        kind, _, number = device.partition(":")
        count = len(range(n, deployment.spec.replicas, len(devices)))
        if count:
            groups.append(
                {
                    "name": f"{deployment.route}_{n}" if n else deployment.route,
                    "kind": "KIND_GPU" if kind == "cuda" else "KIND_CPU",
                    "count": count,
                    "gpus": [int(number or 0)] if kind == "cuda" else [],
                }
            )
    return groups


def _batching(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is not set is learned, and shows as 0 or empty, which is Triton's for not set."""
    levels = int(settings.get("priority_levels", 0))
    return {
        "preferred_batch_size": settings.get("preferred_batch_sizes", []),
        "max_queue_delay_microseconds": int(settings.get("max_queue_delay_us") or 0),
        "preserve_ordering": bool(settings.get("preserve_order", False)),
        "priority_levels": levels,
        "default_priority_level": int(settings.get("default_priority_level") or (levels + 1) // 2),
        "default_queue_policy": {
            "timeout_action": "REJECT",
            "default_timeout_microseconds": int(float(settings.get("request_timeout_s", 0)) * 1e6),
            "allow_timeout_override": True,
            "max_queue_size": int(settings.get("queue_limit") or 0),
        },
    }


def _sequences(found: Signature, states: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, Any]:
    inputs = {spec.name: spec for spec in found.inputs}
    return {
        "max_sequence_idle_microseconds": int(float(settings.get("sequence_idle_s", 60)) * 1e6),
        "state": [
            {
                "input_name": name,
                "output_name": output,
                "data_type": data_type(inputs[name].datatype),
                "dims": inputs[name].shape,
            }
            for name, output in states.items()
            if name in inputs
        ],
    }


def _steps(pipeline: Pipeline) -> dict[str, Any]:
    return {
        "step": [
            {
                "model_name": step.route,
                "model_version": -1,
                "input_map": step.inputs,
                "output_map": step.outputs,
            }
            for step in pipeline.steps
        ]
    }

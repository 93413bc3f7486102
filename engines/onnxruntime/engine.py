"""One ONNX model in one `InferenceSession`."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import psutil

from engines.engine import EngineError
from engines.protocol import Load, Ready, Signature, TensorSpec

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
#: Dynamic axes other than the batch are given this length in the probe run.
_PROBE_LENGTH = 8


class OnnxRuntimeEngine:
    """Settings: ``threads`` (via `Load.threads`; 0 is one a physical core this process may use).

    Raises `EngineError`: ``bad_model`` for a file that is not a sound ONNX model, ``device_unavailable`` where the
    asked-for provider did not load (ONNX Runtime itself would go on silently on the CPU), ``missing_library``.
    """

    def __init__(self, load: Load):
        self._path = Path(load.path)
        threads = load.threads or _cores()
        provider, options = _provider(load.device)
        session_options = ort.SessionOptions()
        session_options.intra_op_num_threads = threads
        session_options.inter_op_num_threads = 1
        session_options.log_severity_level = 3
        if provider != "CPUExecutionProvider":
            # Nodes that the provider cannot take are an error, too: half a model on the CPU is a fallback.
            session_options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            self._session = ort.InferenceSession(str(self._path), session_options, providers=[(provider, options)])
        except Exception as error:  # onnxruntime raises a dozen private types
            raise self._load_error(error, provider, load.device) from error
        if provider not in self._session.get_providers():
            raise EngineError(
                "device_unavailable",
                f"{provider} was asked for but ONNX Runtime loaded {', '.join(self._session.get_providers())}",
                hint="see `pilothouse doctor`, or deploy with --set device=cpu",
            )
        self._outputs = [output.name for output in self._session.get_outputs()]
        signature, notes = self._signature()
        self._inputs = {spec.name: spec for spec in signature.inputs}
        self.ready = Ready(
            engine="onnxruntime",
            engine_version=ort.__version__,
            device=load.device,
            provider=provider,
            threads=threads,
            signature=signature,
            memory_bytes=psutil.Process().memory_info().rss,
            notes=notes,
        )

    def infer(self, inputs: dict[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        names = list(outputs) or self._outputs
        try:
            feeds = {
                # onnxruntime takes strings as `str` objects
                name: np.array([item.decode() for item in array.reshape(-1)], dtype=object).reshape(array.shape)
                if array.dtype.kind == "O"
                else array
                for name, array in inputs.items()
            }
            return dict(zip(names, self._session.run(names, feeds), strict=True))
        except UnicodeDecodeError as error:
            raise EngineError("invalid_input", f"a BYTES element is not UTF-8: {error}") from None
        except Exception as error:
            text = _one_line(error)
            code = "out_of_memory" if "allocate" in text.lower() else "invalid_input"
            if "INVALID_ARGUMENT" not in text and "RUNTIME_EXCEPTION" not in text and code == "invalid_input":
                code = "engine_failed"
            raise EngineError(code, text) from None

    def close(self) -> None:
        del self._session

    def _signature(self) -> tuple[Signature, list[str]]:
        """Read from the file, then confirmed by a run: whether the first axis really is a batch."""
        inputs = [self._spec(node) for node in self._session.get_inputs()]
        outputs = [self._spec(node) for node in self._session.get_outputs()]
        metadata = self._session.get_modelmeta().custom_metadata_map
        try:
            labels = [str(label) for label in json.loads(metadata.get("labels", "[]"))]
        except (ValueError, TypeError):
            labels = []
        notes: list[str] = []
        batched = all(spec.shape and spec.shape[0] == -1 for spec in [*inputs, *outputs])
        if batched:
            try:
                batched = all(len(array) == 2 for array in self._probe(inputs, rows=2))
                if not batched:
                    notes.append("An output does not follow the first axis of the input: requests are not batched.")
            except Exception as error:
                batched = False
                notes.append(f"The probe run with two rows failed, requests are not batched: {_one_line(error)}")
        else:
            notes.append("The first axis is not a free batch axis: requests are not batched.")
        return Signature(inputs=inputs, outputs=outputs, batched=batched, labels=labels), notes

    def _probe(self, inputs: list[TensorSpec], rows: int) -> list[np.ndarray]:
        feeds = {}
        for spec, node in zip(inputs, self._session.get_inputs(), strict=True):
            shape = [rows, *(_PROBE_LENGTH if size == -1 else size for size in spec.shape[1:])]
            if spec.datatype == "BYTES":
                feeds[spec.name] = np.full(shape, "", dtype=object)
            else:
                feeds[spec.name] = np.zeros(shape, dtype=_NUMPY[node.type])
        return self._session.run(None, feeds)

    @staticmethod
    def _spec(node: Any) -> TensorSpec:
        if node.type not in _DATATYPES:
            raise EngineError("bad_model", f"{node.name} has type {node.type}, which cannot be served as a tensor")
        shape = [size if isinstance(size, int) and size >= 0 else -1 for size in node.shape]
        return TensorSpec(node.name, _DATATYPES[node.type], shape)

    def _load_error(self, error: Exception, provider: str, device: str) -> EngineError:
        text = _one_line(error)
        lowered = text.lower()
        if device != "cpu" and ("provider" in lowered or "cuda" in lowered or "fallback" in lowered):
            return EngineError(
                "device_unavailable",
                f"{provider} did not load: {text}",
                hint="see `pilothouse doctor`, or deploy with --set device=cpu",
            )
        if "allocate" in lowered or "out of memory" in lowered:
            return EngineError("out_of_memory", f"not enough memory to load {self._path.name}: {text}")
        return EngineError(
            "bad_model",
            f"{self._path.name} is not a model that ONNX Runtime {ort.__version__} can load: {text}",
            hint="check that the file is complete and is ONNX",
        )


_NUMPY: dict[str, Any] = {
    "tensor(bool)": np.bool_,
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    **{f"tensor({kind}{bits})": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}


def _provider(device: str) -> tuple[str, dict[str, Any]]:
    if device == "cpu":
        return "CPUExecutionProvider", {}
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index or "0").isdigit():
        raise EngineError("bad_setting", f"device must be cpu or cuda:N, not {device!r}", field="device")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise EngineError(
            "device_unavailable",
            f"this build of ONNX Runtime ({ort.__version__}) has no CUDA provider",
            hint="pilothouse runtime install onnxruntime-cuda",
        )
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN from wheels, where they were installed
    return "CUDAExecutionProvider", {"device_id": int(index or 0)}


def _cores() -> int:
    """Physical cores that this process may use: hyperthreads slow matrix products down."""
    physical = psutil.cpu_count(logical=False) or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return max(1, min(physical, allowed))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]

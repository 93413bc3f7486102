"""One ONNX model in one `InferenceSession`."""

import contextlib
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import psutil

from engines import tensors
from engines.engine import EngineError
from engines.onnxruntime import signature, values
from engines.onnxruntime.errors import load_error, run_error
from engines.onnxruntime.probe import BUDGET_S, Found, probe
from engines.protocol import Load, Ready, Signature, TensorSpec

Arrays = dict[str, np.ndarray]

#: As the deployment's setting of that name has it.
MAX_BATCH_SIZE = 32
#: The largest batch is tried before the first request where that takes less than this.
WARM_UP_S = 0.5
WARM_UP_BYTES = 64 << 20


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
        if threads + 1 >= _allowed_cores():
            # Threads that wait busily take the core on which the daemon reads and answers.
            session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if provider != "CPUExecutionProvider":
            # Nodes that the provider cannot take are an error, too: half a model on the CPU is a fallback.
            session_options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            self._session = ort.InferenceSession(str(self._path), session_options, providers=[(provider, options)])
        except Exception as error:  # onnxruntime raises a dozen private types
            raise load_error(error, self._path.name, provider, load.device) from error
        if provider not in self._session.get_providers():
            raise EngineError(
                "device_unavailable",
                f"{provider} was asked for but ONNX Runtime loaded {', '.join(self._session.get_providers())}",
                hint="see `pilothouse doctor`, or deploy with --set device=cpu",
            )
        self._options = _quiet()
        self._read(load)
        self.ready = Ready(
            engine="onnxruntime",
            engine_version=ort.__version__,
            device=load.device,
            provider=provider,
            threads=threads,
            signature=self._signature,
            memory_bytes=psutil.Process().memory_info().rss,
            notes=self._notes,
        )

    def infer(self, inputs: dict[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        try:
            return self._run(inputs, outputs, self._options)
        except EngineError:
            raise
        except MemoryError:
            raise EngineError("out_of_memory", "not enough memory for this request") from None
        except Exception as error:  # onnxruntime raises a dozen private types
            self._blame(inputs)
            raise run_error(error) from None

    def close(self) -> None:
        del self._session

    def _run(self, inputs: dict[str, np.ndarray], outputs: Sequence[str], options: ort.RunOptions) -> Arrays:
        for name, array in inputs.items():
            if not array.size and name not in self._may_be_empty:
                raise EngineError("invalid_input", f"input {name} has an axis of length 0", field=name)
        if self._texts:
            inputs = {n: values.to_text(n, a) if n in self._texts else a for n, a in inputs.items()}
        names = outputs or self._names
        answers: Sequence[Any]
        if self._bf16:
            answers = values.run_with_bf16(self._session, names, inputs, options)
        else:
            answers = self._session.run(names, inputs, options)
        if self._plain:
            return dict(zip(names, answers, strict=True))
        return {
            name: self._zip_maps[name](answer) if name in self._zip_maps else answer
            for name, answer in zip(names, answers, strict=True)
            if answer is not None
        }

    def _read(self, load: Load) -> None:
        """The signature: as the file has it, then as runs show it, which also warm the model up."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        specs = [signature.read(node) for node in inputs]
        self._specs = specs
        self._names = [node.name for node in outputs]
        self._texts = {spec.name for spec in specs if spec.datatype == "BYTES"}
        self._may_be_empty = {spec.name for spec in specs if signature.may_be_empty(spec)}
        self._zip_maps = {node.name: values.ZipMap() for node in outputs if values.is_zip_map(node.type)}
        self._bf16 = values.with_bf16(node.type for node in [*inputs, *outputs])
        self._plain = not self._zip_maps and not any(node.type.startswith("optional") for node in outputs)
        found = self._probe(specs, [signature.read(node) for node in outputs])
        self._warm_up(found, int(load.settings.get("max_batch_size", MAX_BATCH_SIZE)))
        labels = signature.labels(self._session.get_modelmeta().custom_metadata_map)
        for index, spec in enumerate(found.outputs):
            if spec.name in self._zip_maps and (classes := self._zip_maps[spec.name].labels):
                found.outputs[index] = msgspec.structs.replace(spec, shape=[-1, len(classes)])
                labels = labels or classes
        self._signature = Signature(found.inputs, found.outputs, found.batched, labels)
        self._notes = found.notes

    def _probe(self, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> Found:
        """What hangs or takes far too long is stopped between two nodes of the graph."""
        options = _quiet()
        timer = threading.Timer(2 * BUDGET_S, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()

        def run(feeds: Arrays) -> Arrays:
            try:
                return self._run(feeds, [], options)
            except EngineError:
                raise
            except Exception as error:
                raise run_error(error) from None

        try:
            return probe(run, inputs, outputs, _rounds_by_batch(self._path), BUDGET_S)
        finally:
            timer.cancel()

    def _warm_up(self, found: Found, rows: int) -> None:
        """The largest batch once, where that is cheap: what it allocates is there when the first one comes."""
        if not found.batched or found.sample is None or found.row_s * rows > WARM_UP_S:
            return
        if found.sample.row_bytes * rows <= WARM_UP_BYTES:
            with contextlib.suppress(EngineError):
                self.infer(found.sample.feeds(range(rows)), [])

    def _blame(self, inputs: Arrays) -> None:
        """Raises where the request is at fault by its types or shapes: ONNX Runtime does not always name the input."""
        given = {name: (tensors.datatype(array), array.shape) for name, array in inputs.items()}
        signature.check(self._specs, given)


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


def _allowed_cores() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cores() -> int:
    """Physical cores that this process may use: hyperthreads slow matrix products down."""
    return max(1, min(psutil.cpu_count(logical=False) or 1, _allowed_cores()))


def _quiet() -> ort.RunOptions:
    """A run that fails says so by its exception; standard error is for what ends the worker."""
    options = ort.RunOptions()
    options.log_severity_level = 4
    return options


def _rounds_by_batch(path: Path) -> bool:
    """Whether the graph has an operator that rounds activations by the range of the whole batch. Operators stand before
    the weights, so that the start of a large file is enough."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(b"DynamicQuantize", 0, 64 << 20) >= 0
    except (OSError, ValueError):  # empty, or it cannot be mapped: nothing is known
        return False

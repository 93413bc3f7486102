"""Open Inference Protocol v2 (KServe, Triton) over REST."""

from typing import Any

import msgspec


class InferInput(msgspec.Struct):
    """``data`` is flat or nested, in C order; absent where the tensor follows as binary."""

    name: str
    datatype: str
    shape: list[int]
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)  # a plain default has no JSON Schema
    parameters: dict[str, Any] = {}


class InferRequestedOutput(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    inputs: list[InferInput]
    id: str = ""
    outputs: list[InferRequestedOutput] = []
    parameters: dict[str, Any] = {}


class InferOutput(msgspec.Struct, omit_defaults=True):
    name: str
    datatype: str
    shape: list[int]
    data: Any = None
    parameters: dict[str, Any] = {}


class InferResponse(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[InferOutput]
    id: str = ""
    parameters: dict[str, Any] = {}


class ServerMetadata(msgspec.Struct):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Ready(msgspec.Struct):
    """Triton answers readiness by the status alone; the body is KServe's."""

    ready: bool


class Live(msgspec.Struct):
    live: bool


class Error(msgspec.Struct):
    error: str


# --- statistics ------------------------------------------------------------------------------------------


class Count(msgspec.Struct):
    """How often, and how long in all."""

    count: int
    ns: int


class InferStatistics(msgspec.Struct, kw_only=True):
    success: Count
    fail: Count
    queue: Count
    compute_input: Count
    compute_infer: Count
    compute_output: Count
    cache_hit: Count
    cache_miss: Count


class BatchStatistics(msgspec.Struct):
    """The executions with so many rows."""

    batch_size: int
    compute_input: Count
    compute_infer: Count
    compute_output: Count


class ModelStatistics(msgspec.Struct, kw_only=True):
    """``inference_count`` counts rows, ``execution_count`` batches; ``last_inference`` is in Unix milliseconds."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: list[BatchStatistics]


class Statistics(msgspec.Struct):
    model_stats: list[ModelStatistics]


# --- the repository --------------------------------------------------------------------------------------


class IndexRequest(msgspec.Struct):
    ready: bool = False
    """Only what is ready."""


class IndexEntry(msgspec.Struct, omit_defaults=True):
    """``state`` is ``READY``, ``LOADING``, ``UNLOADING`` or ``UNAVAILABLE``; a model that was never loaded has none."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""


class LoadRequest(msgspec.Struct):
    """``parameters.config`` is a ModelConfiguration as JSON in a string, or as an object."""

    parameters: dict[str, Any] = {}


class UnloadRequest(msgspec.Struct):
    """``parameters.unload_dependents``: of a pipeline, its steps too."""

    parameters: dict[str, Any] = {}


# --- shared memory ---------------------------------------------------------------------------------------


class RegisterRegion(msgspec.Struct):
    """``key`` is the name of a POSIX shared memory object."""

    key: str
    byte_size: int
    offset: int = 0


class RegionStatus(msgspec.Struct):
    name: str
    key: str
    offset: int
    byte_size: int


# --- settings --------------------------------------------------------------------------------------------


class LogSettings(msgspec.Struct):
    log_file: str
    log_info: bool
    log_warning: bool
    log_error: bool
    log_verbose_level: int
    log_format: str


class TraceSettings(msgspec.Struct):
    """Numbers are texts, as with Triton."""

    trace_file: str
    trace_level: list[str]
    trace_rate: str
    trace_count: str
    log_frequency: str
    trace_mode: str

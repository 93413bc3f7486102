"""`/manage/v1`: Pilothouse's own resources, as they travel over HTTP and in events.

Times are RFC 3339 UTC strings; names carry their units. `None` means not known or not applicable.
"""

from typing import Any, Literal

import msgspec

JobState = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
DeploymentState = Literal["stopped", "idle", "starting", "ready", "draining", "failed"]


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An error a user can act on: what happened, and what to do."""

    code: str
    message: str
    hint: str = ""
    details: dict[str, Any] = {}


class Page(msgspec.Struct, kw_only=True):
    items: list[Any]
    next_cursor: str | None = None


# --- the machine ---------------------------------------------------------------------------------------


class Cpu(msgspec.Struct, kw_only=True):
    name: str
    physical_cores: int
    logical_cores: int
    features: list[str] = []
    """Instruction sets that matter to engines: ``avx2``, ``avx512f``, ``amx_int8`` …"""


class Gpu(msgspec.Struct, kw_only=True):
    """One GPU as NVML reports it; a reading the driver refuses is `None`."""

    index: int
    uuid: str
    name: str
    compute_capability: str | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    utilization_percent: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None


class Hardware(msgspec.Struct, kw_only=True):
    """The machine and its latest readings (event kind ``hardware``, key ``now``, once a second)."""

    time: str
    hostname: str
    os: str
    cpu: Cpu
    cpu_percent: float
    memory_total_bytes: int
    memory_used_bytes: int
    disk_free_bytes: int
    """Free space where the data directory lies."""
    gpus: list[Gpu]
    gpu_note: str = ""
    """Why no GPU is listed, in one sentence."""
    driver: str | None = None


class Engine(msgspec.Struct, kw_only=True):
    """One engine on this machine (`pilothouse doctor`)."""

    name: str
    version: str | None
    usable: bool
    reason: str = ""
    """Why not, in one sentence."""
    remedy: str = ""
    """The command that mends it."""
    devices: list[str] = []
    runtime: str | None = None


class Runtime(msgspec.Struct, kw_only=True):
    """An environment in which workers run. ``environment`` is the daemon's own."""

    name: str
    engine: str
    state: Literal["available", "installing", "installed", "environment", "failed"]
    version: str | None = None
    size_bytes: int | None = None
    description: str = ""
    note: str = ""
    job: str | None = None


# --- models --------------------------------------------------------------------------------------------


class CatalogEntry(msgspec.Struct, kw_only=True):
    """A model that Pilothouse knows how to get."""

    name: str
    title: str
    description: str
    task: str
    format: str
    licence: str
    size_bytes: int | None
    sources: list[str]
    """References in order of preference, as `pull` takes them."""
    sha256: str | None = None
    fit: Literal["fits", "tight", "too_big", "unknown"] = "unknown"
    fit_reason: str = ""
    here: bool = False
    job: str | None = None


class ModelFile(msgspec.Struct, kw_only=True):
    path: str
    size_bytes: int
    digest: str
    """``sha256:…``"""


class Version(msgspec.Struct, kw_only=True):
    version: int
    format: str
    precision: str | None
    size_bytes: int
    digest: str
    files: list[ModelFile]
    """The first one is the model; the rest lie beside it (labels, samples, tokenizer)."""
    source: str
    created: str
    parent: int | None = None
    certificate: dict[str, Any] | None = None
    metadata: dict[str, Any] = {}
    card: dict[str, Any] = {}
    """What was declared about it: labels, units, steps before and after it. See docs/cards.md."""


class Model(msgspec.Struct, kw_only=True):
    name: str
    task: str
    licence: str = ""
    description: str = ""
    size_bytes: int = 0
    versions: list[Version] = []


class Sample(msgspec.Struct, kw_only=True):
    """One held-out example that came with a model: flat values in C order."""

    inputs: dict[str, list[float]]
    shapes: dict[str, list[int]]
    label: str | None = None


# --- jobs ----------------------------------------------------------------------------------------------


class Job(msgspec.Struct, kw_only=True):
    id: str
    kind: Literal["download", "runtime", "convert", "evaluate", "benchmark"]
    title: str
    state: JobState
    progress: float = 0.0
    """0 to 1."""
    message: str = ""
    """What it does now, in words."""
    done_bytes: int | None = None
    total_bytes: int | None = None
    rate_bytes_per_s: float | None = None
    eta_s: float | None = None
    error: Problem | None = None
    spec: dict[str, Any] = {}
    result: dict[str, Any] | None = None
    created: str = ""
    updated: str = ""


class DownloadRequest(msgspec.Struct, kw_only=True, tag_field="kind", tag="download", forbid_unknown_fields=True):
    ref: str
    name: str | None = None


class RuntimeRequest(msgspec.Struct, kw_only=True, tag_field="kind", tag="runtime", forbid_unknown_fields=True):
    runtime: str


JobRequest = DownloadRequest | RuntimeRequest


# --- deployments ---------------------------------------------------------------------------------------


class TensorMetadata(msgspec.Struct, kw_only=True):
    name: str
    datatype: str
    shape: list[int]


class PipelineStep(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One call of another route. A value is a tensor under the name that it has within the pipeline."""

    name: str
    route: str
    inputs: dict[str, str]
    """Input of the route → the value that it gets."""
    outputs: dict[str, str]
    """Output of the route → the value that it becomes."""
    items: bool = False
    """The inputs are items for the declared steps of the route's model, not tensors of the model."""


class Pipeline(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A route made of others: values flow from the inputs through the steps to the outputs."""

    steps: list[PipelineStep]
    outputs: dict[str, str]
    """Output of the pipeline → the value that it is."""
    inputs: list[TensorMetadata] = []
    """Empty: every value that no step makes is one, of the type that its step takes."""


class DeploymentSpec(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What should be: a model, or a pipeline of other routes. The route is in the path."""

    model: str = ""
    pipeline: Pipeline | None = None
    version: int | None = None
    """`None` is the newest one at the time of the request, and is stored as that number."""
    engine: str = "auto"
    device: str = "auto"
    """``cpu``, ``cuda:1``, or several with commas: replicas are dealt to them in turn."""
    replicas: int = 1
    stopped: bool = False
    settings: dict[str, Any] = {}
    """``max_batch_size``, ``max_queue_delay_us``, ``queue_limit``, ``threads``, ``context_tokens``,
    ``sequences``, …: see docs/settings.md."""
    adapters: dict[str, str] = {}
    """LoRA adapters that a request may choose as ``ROUTE:NAME``: name → ``MODEL[@VERSION]`` of the registry."""
    projector: str | None = None
    """``MODEL[@VERSION]`` through which the model sees images; `None`: the one that came with it, if one did;
    empty: none."""
    draft: str | None = None
    """``MODEL[@VERSION]`` that guesses tokens ahead (speculative decoding)."""


class Candidate(msgspec.Struct, kw_only=True):
    """One engine × device that was considered for a deployment."""

    engine: str
    device: str
    runtime: str | None
    chosen: bool = False
    usable: bool = True
    estimated_memory_bytes: int | None = None
    reason: str = ""


class Decision(msgspec.Struct, kw_only=True):
    reason: str
    """One sentence a user can read."""
    candidates: list[Candidate]


class Replica(msgspec.Struct, kw_only=True):
    id: str
    state: Literal["starting", "ready", "failed", "stopping", "backoff"]
    device: str | None = None
    pid: int | None = None
    memory_bytes: int | None = None
    restarts: int = 0
    retry_in_s: float | None = None
    error: Problem | None = None


class Pending(msgspec.Struct, kw_only=True):
    """What was declared and does not serve yet: it starts beside what serves, or has failed and left that in place."""

    model: str
    version: int
    state: Literal["starting", "failed"]
    replicas: list[Replica] = []
    decision: Decision | None = None
    error: Problem | None = None
    note: str = ""
    """Where it has failed: what goes on, and the way back."""
    before: DeploymentSpec | None = None
    """What serves meanwhile: declared again it drops the change."""
    since: str = ""


class Deployment(msgspec.Struct, kw_only=True):
    """What should be, and what is."""

    route: str
    model: str
    version: int
    task: str
    spec: DeploymentSpec
    """As it was declared last; `model` and `version` are what serves."""
    state: DeploymentState
    pending: Pending | None = None
    """A change that is under way, or that failed."""
    replicas: list[Replica] = []
    engine: str | None = None
    engine_version: str | None = None
    device: str | None = None
    precision: str | None = None
    runtime: str | None = None
    memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    """Of a GPU, as the engine told it when it had loaded the model."""
    temporary: bool = False
    """Deployed by a request of a client that expects it so; goes when it is idle, and with the daemon."""
    decision: Decision | None = None
    notes: list[str] = []
    error: Problem | None = None
    inputs: list[TensorMetadata] = []
    outputs: list[TensorMetadata] = []
    labels: list[str] = []
    card: dict[str, Any] = {}
    """The declared steps of a tensor model as its workers run them, without the labels; empty: it takes only
    tensors."""
    context_tokens: int | None = None
    """Longest prompt plus answer of one sequence, as it is served."""
    trained_context_tokens: int | None = None
    sequences: int | None = None
    chat_template: str | None = None
    """Where it is from: ``gguf``, or ``chatml`` that stands in."""
    capabilities: list[str] = []
    """Of a language model: ``completion``, ``tools``, ``thinking``, ``vision``, ``embedding``, ``rerank``. Of a tensor
    model with declared steps: ``classify``, ``embedding``, ``rerank``."""
    adapters: list[str] = []
    """Names of the LoRA adapters that are loaded."""
    pooling: str | None = None
    embedding_length: int | None = None
    created: str = ""
    since: str = ""
    """When it entered its state."""


# --- live readings -------------------------------------------------------------------------------------


class RouteSample(msgspec.Struct, kw_only=True):
    """One second of one route (event kind ``metrics``, key the route). Percentiles are over the last ten
    seconds and `None` when nothing was answered in them; rates are of this second."""

    time: str
    route: str
    requests_per_s: float = 0.0
    errors_per_s: float = 0.0
    requests_total: int = 0
    errors_total: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    queue_ms: float | None = None
    """Mean wait for a free replica."""
    compute_ms: float | None = None
    """Mean time in the engine."""
    overhead_ms: float | None = None
    """Mean of the rest: decoding, transport, encoding."""
    batch_size: float | None = None
    learned_batch_size: int | None = None
    """Rows at which a batch leaves at once, as the batcher has learned."""
    learned_delay_us: int | None = None
    """How long it waits for them."""
    cache_hit_rate: float | None = None
    """Share of the requests of the last ten seconds that a kept answer served, 0 to 1; `None` without a cache."""
    cache_bytes: int | None = None
    queue_depth: int = 0
    in_flight: int = 0
    confidence: float | None = None
    """Mean confidence of the top class."""
    output_tokens_per_s: float | None = None
    prompt_tokens_per_s: float | None = None
    ttft_p50_ms: float | None = None
    itl_p50_ms: float | None = None
    kv_used: float | None = None
    prefix_hit_rate: float | None = None
    """Share of the prompt tokens of the last ten seconds that needed no computing, 0 to 1."""
    prefix_cache_bytes: int | None = None
    """Computed prefixes that are kept outside the key-value memory."""
    draft_acceptance: float | None = None
    """Share of the tokens guessed ahead in the last ten seconds that the model would have chosen, 0 to 1."""
    memory_bytes: int | None = None


class Daemon(msgspec.Struct, kw_only=True):
    """Event kind ``daemon``, key ``info``."""

    version: str
    pid: int
    url: str
    started: str
    data_dir: str
    ollama_url: str | None = None
    """Where Ollama's clients find it by default, if `ollama_port` is set and was free."""
    grpc_address: str | None = None
    """``HOST:PORT`` of `/v2` over gRPC, if `grpc_port` is set and it could be had."""
    notes: list[str] = []
    """What the user should know of this start: a port that was taken."""


class Setting(msgspec.Struct, kw_only=True):
    key: str
    value: Any
    source: Literal["default", "file", "environment", "flag"]
    environment: str
    meaning: str


# --- events --------------------------------------------------------------------------------------------

Kind = Literal["daemon", "hardware", "metrics", "deployment", "model", "job", "runtime", "engine"]


class Change(msgspec.Struct, kw_only=True):
    """One server-sent event ``change``: ``value`` is the whole new state of ``key``; `None` removes it."""

    kind: Kind
    key: str
    value: Any


class Snapshot(msgspec.Struct, kw_only=True):
    """The server-sent event ``snapshot`` that opens a stream: kind → key → value."""

    state: dict[str, dict[str, Any]]

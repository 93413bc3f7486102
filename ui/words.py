"""What the daemon's words are called for a person, and how urgent they are."""

from typing import Literal

from app.schema.manage import Deployment, Hardware, Job, Runtime

Mark = Literal["steady", "watch", "wrong", "off"]
"""● right, ▲ asks for a look, ■ wrong, ○ not running."""

ENGINES = {
    "onnxruntime": "ONNX Runtime", "llamacpp": "llama.cpp", "tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT RTX",
    "echo": "Echo", "remote": "Remote", "ensemble": "Pipeline",
}  # fmt: skip
DEPLOYMENT: dict[str, tuple[Mark, str]] = {
    "ready": ("steady", "Ready"),
    "starting": ("watch", "Starting"),
    "draining": ("watch", "Stopping"),
    "idle": ("off", "Idle"),
    "stopped": ("off", "Stopped"),
    "failed": ("wrong", "Failed"),
}
JOB: dict[str, tuple[Mark, str]] = {
    "queued": ("off", "Waiting"),
    "running": ("steady", "Running"),
    "paused": ("watch", "Paused"),
    "succeeded": ("steady", "Done"),
    "failed": ("wrong", "Failed"),
    "cancelled": ("off", "Cancelled"),
}
FIT: dict[str, Mark] = {"fits": "steady", "tight": "watch", "too_big": "wrong", "unknown": "off"}
RUNTIME: dict[str, tuple[Mark, str]] = {
    "available": ("off", "Not installed"),
    "installing": ("watch", "Installing"),
    "installed": ("steady", "Installed"),
    "environment": ("steady", "Built in"),
    "failed": ("wrong", "Failed"),
}
REPLICA: dict[str, tuple[Mark, str]] = {
    "starting": ("watch", "Starting"),
    "ready": ("steady", "Ready"),
    "failed": ("wrong", "Failed"),
    "stopping": ("watch", "Stopping"),
    "backoff": ("watch", "Waiting to restart"),
}
CAPABILITIES = {
    "completion": "writes", "tools": "calls tools", "thinking": "reasons", "vision": "sees pictures",
    "embedding": "embeds", "rerank": "ranks", "classify": "classifies",
}  # fmt: skip
COLORS: dict[Mark, str] = {"steady": "good", "watch": "watch", "wrong": "wrong", "off": "muted"}
LANGUAGE_TASKS = {"text-generation", "chat", "completion", "text generation"}


def engine_name(engine: str | None) -> str:
    return ENGINES.get(engine or "", engine or "")


def device_name(device: str | None) -> str:
    """``cpu`` → CPU, ``cuda:0`` → GPU 0, ``cuda:0,cuda:1`` → GPU 0, 1."""
    if not device:
        return ""
    if "," in device:
        names = [device_name(one.strip()) for one in device.split(",")]
        return ", ".join([names[0], *(name.removeprefix("GPU ") for name in names[1:])])
    if device.startswith(("cuda", "gpu")):
        _, _, index = device.partition(":")
        return f"GPU {index or 0}"
    return device.upper() if device == "cpu" else device


def devices(deployment: Deployment) -> list[str]:
    """Those that its replicas run on, each once."""
    found = dict.fromkeys(replica.device for replica in deployment.replicas if replica.device)
    return list(found) or ([deployment.device] if deployment.device else [])


def title(deployment: Deployment) -> str:
    """``digits v1``; of a pipeline, which has no version, what it is made of."""
    pipeline = deployment.spec.pipeline
    if pipeline is not None:
        return f"{deployment.route}, {len(pipeline.steps)} steps"
    return f"{deployment.route} v{deployment.version}"


def engine_and_device(deployment: Deployment) -> str:
    parts = [engine_name(deployment.engine), device_name(",".join(devices(deployment)))]
    return " · ".join(part for part in parts if part) or "–"


def abilities(deployment: Deployment) -> str:
    """What a language model can do: ``writes, calls tools``."""
    return ", ".join(CAPABILITIES.get(word, word) for word in deployment.capabilities)


def context(deployment: Deployment) -> str:
    """``32,768 tokens``, and what the model was trained for where that is another number."""
    if not deployment.context_tokens:
        return ""
    trained = deployment.trained_context_tokens
    more = f", of {trained:,} it was trained for" if trained and trained != deployment.context_tokens else ""
    return f"{deployment.context_tokens:,} tokens{more}"


def chat_template(deployment: Deployment) -> str:
    """Where it is from."""
    words = {"gguf": "the model's own", "chatml": "ChatML, for want of its own"}
    return words.get(deployment.chat_template or "", deployment.chat_template or "")


def is_language(deployment: Deployment) -> bool:
    return deployment.task in LANGUAGE_TASKS or deployment.context_tokens is not None


def is_pipeline(deployment: Deployment) -> bool:
    return deployment.spec.pipeline is not None


def is_active(job: Job) -> bool:
    return job.state in {"queued", "running", "paused"}


def task_name(task: str) -> str:
    return task.replace("-", " ").replace("_", " ")


def missing_runtime(deployment: Deployment, runtimes: dict[str, Runtime]) -> Runtime | None:
    """The runtime to install so that a deployment which cannot run now can: the first one among its candidates
    that is not there, when no candidate is usable."""
    if deployment.state == "ready" or deployment.decision is None:
        return None
    candidates = deployment.decision.candidates
    if any(candidate.usable for candidate in candidates):
        return None
    for candidate in candidates:
        runtime = runtimes.get(candidate.runtime or "")
        if runtime is not None and runtime.state in {"available", "failed", "installing"}:
            return runtime
    return None


def wants_a_look(
    deployments: list[Deployment], jobs: list[Job], hardware: Hardware | None
) -> list[tuple[Mark, str, str]]:
    """What a person should look at now: mark, what, and more about it."""
    found: list[tuple[Mark, str, str]] = []
    for deployment in deployments:
        restarts = sum(replica.restarts for replica in deployment.replicas)
        if deployment.state == "failed":
            problem = deployment.error
            found.append(("wrong", f"{deployment.route} is not serving", problem.message if problem else ""))
        elif deployment.pending is not None and deployment.pending.state == "failed":
            problem = deployment.pending.error
            found.append(("watch", f"A change of {deployment.route} failed", problem.message if problem else ""))
        elif restarts:
            times = "once" if restarts == 1 else f"{restarts} times"
            found.append(("watch", f"{deployment.route} restarted {times}", "its replica came back by itself"))
    for job in jobs:
        if job.state == "failed":
            found.append(("wrong", f"{job.title} failed", job.error.message if job.error else ""))
    if hardware is not None and hardware.disk_free_bytes < 5e9:
        found.append(("watch", "The disk is nearly full", f"{hardware.disk_free_bytes / 1e9:.1f} GB free"))
    return found

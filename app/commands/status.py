"""`pilothouse status`: what the daemon's snapshot says, as a document and in words. Pure."""

from typing import Any

from app.commands import console

UNFINISHED = ("queued", "running", "paused")


def document(state: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The parts of a snapshot (kind → key → value) that tell how things stand; a deployment has its ``load``."""
    metrics = state.get("metrics", {})
    return {
        "daemon": state.get("daemon", {}).get("info"),
        "hardware": state.get("hardware", {}).get("now"),
        "deployments": [
            {**deployment, "load": metrics.get(route)}
            for route, deployment in sorted(state.get("deployment", {}).items())
        ],
        "jobs": [job for _, job in sorted(state.get("job", {}).items()) if job["state"] in UNFINISHED],
    }


def report(found: dict[str, Any]) -> str:
    lines = []
    if daemon := found["daemon"]:
        lines.append(
            f"daemon {daemon['version']} on {daemon['url']}, pid {daemon['pid']}, data in {daemon['data_dir']}"
        )
        if daemon.get("ollama_url"):
            lines.append(f"Ollama's clients find it on {daemon['ollama_url']}")
        if daemon.get("grpc_address"):
            lines.append(f"/v2 over gRPC is on {daemon['grpc_address']}")
        lines += daemon.get("notes", [])
    if hardware := found["hardware"]:
        lines.append(machine(hardware))
    if found["deployments"]:
        headings = ["ROUTE", "MODEL", "STATE", "ENGINE", "DEVICE", "REPLICAS", "MEMORY", "REQ/S", "P50", "WAITING"]
        rows = [_row(entry) for entry in found["deployments"]]
        if any(entry.get("context_tokens") for entry in found["deployments"]):
            headings += ["CONTEXT", "HITS"]
            rows = [row + _language_cells(entry) for row, entry in zip(rows, found["deployments"], strict=True)]
        lines += ["", console.table(headings, rows)]
        lines += [
            f"{entry['route']}: {_problem(entry['error'])}" for entry in found["deployments"] if entry.get("error")
        ]
        lines += [change(entry) for entry in found["deployments"] if entry.get("pending")]
    else:
        lines += ["", "nothing is deployed; `pilothouse deploy digits` serves the model that came with it"]
    if found["jobs"]:
        rows = [
            [job["id"], job["title"], console.state(job["state"]), f"{job['progress']:.0%}", console.job_text(job)]
            for job in found["jobs"]
        ]
        lines += ["", console.table(["JOB", "WHAT", "STATE", "DONE", "NOW"], rows)]
    return "\n".join(lines)


def machine(hardware: dict[str, Any]) -> str:
    """One line on the machine now."""
    used, total = hardware["memory_used_bytes"], hardware["memory_total_bytes"]
    parts = [
        f"cpu {hardware['cpu_percent']:.0f} %",
        f"memory {console.size(used)} of {console.size(total)}",
        f"disk {console.size(hardware['disk_free_bytes'])} free",
    ]
    parts += [
        f"{gpu['name']} {console.size(gpu['memory_used_bytes'])} of {console.size(gpu['memory_total_bytes'])}"
        for gpu in hardware["gpus"]
    ]
    if not hardware["gpus"]:
        parts.append(hardware.get("gpu_note") or "no GPU")
    return " · ".join(parts)


def steps(deployment: dict[str, Any]) -> str:
    """The routes that a pipeline calls; empty for any other deployment."""
    pipeline = deployment["spec"].get("pipeline")
    return ", ".join(dict.fromkeys(step["route"] for step in pipeline["steps"])) if pipeline else ""


def change(entry: dict[str, Any]) -> str:
    """What is to serve a route, in a line: on its way, or why not and the way back."""
    pending = entry["pending"]
    what = f"{entry['route']}: the change to {pending['model']}@{pending['version']}"
    if pending["state"] != "failed":
        return f"{what} is under way"
    reason = _problem(pending["error"]) if pending.get("error") else "it failed"
    return console.one_line(f"{what} failed: {reason}; {pending['note']}")


def _row(entry: dict[str, Any]) -> list[Any]:
    load = entry["load"] or {}
    replicas = entry.get("replicas", [])
    ready = sum(replica["state"] == "ready" for replica in replicas)
    p50_ms = load.get("p50_ms")
    return [
        entry["route"],
        f"→ {steps(entry)}" if steps(entry) else f"{entry['model']}@{entry['version']}",
        console.state(entry["state"]),
        " ".join(filter(None, (entry.get("engine"), entry.get("engine_version")))) or None,
        entry.get("device"),
        None if steps(entry) else f"{ready}/{max(entry['spec']['replicas'], len(replicas))}",
        console.size(entry.get("memory_bytes")),
        f"{load['requests_per_s']:.1f}" if load else None,
        f"{p50_ms:.1f} ms" if p50_ms is not None else None,
        load.get("queue_depth"),
    ]


def _language_cells(entry: dict[str, Any]) -> list[Any]:
    """The context of each sequence, and the share of prompt tokens that the prefix cache had."""
    context_tokens, hit_rate = entry.get("context_tokens"), (entry["load"] or {}).get("prefix_hit_rate")
    return [
        f"{entry.get('sequences')} × {context_tokens:,}" if context_tokens else None,
        f"{hit_rate:.0%}" if hit_rate is not None else None,
    ]


def language(deployment: dict[str, Any]) -> str:
    """What a language deployment offers, in one line; empty for any other."""
    if not deployment.get("context_tokens"):
        return ""
    parts = [f"{deployment['context_tokens']:,} tokens of context"]
    if (trained := deployment.get("trained_context_tokens") or 0) > deployment["context_tokens"]:
        parts[0] += f" (of {trained:,})"
    if sequences := deployment.get("sequences"):
        parts.append(f"{sequences} sequences at once")
    parts += [", ".join(deployment["capabilities"])] if deployment.get("capabilities") else []
    if adapters := deployment.get("adapters"):
        parts.append("adapters " + ", ".join(f"{deployment['route']}:{name}" for name in adapters))
    return " · ".join(parts)


def _problem(error: dict[str, Any]) -> str:
    return console.one_line(error["message"] + (f" — {error['hint']}" if error.get("hint") else ""))

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
    if hardware := found["hardware"]:
        lines.append(machine(hardware))
    if found["deployments"]:
        headings = ["ROUTE", "MODEL", "STATE", "ENGINE", "DEVICE", "REPLICAS", "MEMORY", "REQ/S", "P50", "WAITING"]
        lines += ["", console.table(headings, [_row(entry) for entry in found["deployments"]])]
        lines += [
            f"{entry['route']}: {_problem(entry['error'])}" for entry in found["deployments"] if entry.get("error")
        ]
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


def _row(entry: dict[str, Any]) -> list[Any]:
    load = entry["load"] or {}
    replicas = entry.get("replicas", [])
    ready = sum(replica["state"] == "ready" for replica in replicas)
    p50_ms = load.get("p50_ms")
    return [
        entry["route"],
        f"{entry['model']}@{entry['version']}",
        console.state(entry["state"]),
        " ".join(filter(None, (entry.get("engine"), entry.get("engine_version")))) or None,
        entry.get("device"),
        f"{ready}/{entry['spec']['replicas']}",
        console.size(entry.get("memory_bytes")),
        f"{load['requests_per_s']:.1f}" if load else None,
        f"{p50_ms:.1f} ms" if p50_ms is not None else None,
        load.get("queue_depth"),
    ]


def _problem(error: dict[str, Any]) -> str:
    return console.one_line(error["message"] + (f" — {error['hint']}" if error.get("hint") else ""))

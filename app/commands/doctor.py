"""`pilothouse doctor`: the machine and its engines, found out in this process, whether or not a daemon runs."""

import shutil
from importlib import metadata
from typing import Any

import msgspec

from app.clock import timestamp
from app.commands import console
from app.paths import DataDir
from app.schema.manage import Cpu, Gpu, Hardware


def examine(data: DataDir) -> dict[str, Any]:
    """``{"machine": Hardware, "engines": [Engine], "warnings": [sentence]}``. Starts one process a runtime."""
    from app.workers import probe

    return {
        "machine": msgspec.to_builtins(_machine(data)),
        "engines": msgspec.to_builtins(probe.engines(data)),
        "warnings": warnings({entry.metadata["Name"].lower() for entry in metadata.distributions()}),
    }


def _machine(data: DataDir) -> Hardware:
    from engines.hardware import Sampler

    sampler = Sampler()
    try:
        facts, reading = sampler.facts(), sampler.read()
    finally:
        sampler.close()
    place = next(folder for folder in (data.root, *data.root.parents) if folder.exists())
    return Hardware(
        time=timestamp(),
        hostname=facts.hostname,
        os=facts.os,
        cpu=msgspec.convert(msgspec.to_builtins(facts.cpu), Cpu),
        cpu_percent=reading.cpu_percent,
        memory_total_bytes=facts.memory_total_bytes,
        memory_used_bytes=reading.memory_used_bytes,
        disk_free_bytes=shutil.disk_usage(place).free,
        gpus=msgspec.convert(msgspec.to_builtins(reading.gpus), list[Gpu]),
        gpu_note=reading.gpu_note or facts.gpu_note,
        driver=facts.driver,
    )


def warnings(distributions: set[str]) -> list[str]:
    """What is wrong with an environment in which ``distributions`` (lower-case names) are installed."""
    if {"onnxruntime", "onnxruntime-gpu"} <= distributions:
        return [
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            "`pip uninstall onnxruntime onnxruntime-gpu`, then install one of them"
        ]
    return []


def report(document: dict[str, Any]) -> str:
    machine = document["machine"]
    cpu = machine["cpu"]
    free_bytes = machine["memory_total_bytes"] - machine["memory_used_bytes"]
    lines = [
        f"machine  {machine['hostname']}, {machine['os']}",
        f"cpu      {', '.join([cpu['name'], str(cpu['physical_cores']) + ' cores', *cpu['features']])}",
        f"memory   {console.size(machine['memory_total_bytes'])}, {console.size(free_bytes)} free",
        f"disk     {console.size(machine['disk_free_bytes'])} free",
    ]
    for gpu in machine["gpus"]:
        lines.append(f"gpu {gpu['index']}    {gpu['name']}, {console.size(gpu['memory_total_bytes'])}")
    if not machine["gpus"]:
        lines.append(f"gpu      none: {machine['gpu_note']}" if machine["gpu_note"] else "gpu      none")
    rows = []
    for engine in document["engines"]:
        usable = "● usable" if engine["usable"] else "○ not usable"
        rows.append(
            [engine["name"], engine["version"], usable, ", ".join(engine["devices"]) or None, engine.get("runtime")]
        )
    lines += ["", console.table(["ENGINE", "VERSION", "STATE", "DEVICES", "RUNTIME"], rows)]
    for engine in document["engines"]:
        if engine["reason"]:
            lines.append(
                f"{engine['name']}: {engine['reason']}" + (f" — {engine['remedy']}" if engine["remedy"] else "")
            )
    return "\n".join([*lines, *[f"▲ {warning}" for warning in document["warnings"]]])

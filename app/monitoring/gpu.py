"""This machine in the words of the wire schema."""

import shutil
from pathlib import Path

from app.clock import timestamp
from app.schema import manage
from engines.hardware import Facts, Reading


def disk_free_bytes(folder: Path) -> int:
    """Free space where ``folder`` lies, or will lie; 0 where that cannot be known."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except FileNotFoundError:
            continue
        except OSError:
            break
    return 0


def to_schema(facts: Facts, reading: Reading, free_bytes: int) -> manage.Hardware:
    return manage.Hardware(
        time=timestamp(),
        hostname=facts.hostname,
        os=facts.os,
        cpu=manage.Cpu(
            name=facts.cpu.name,
            physical_cores=facts.cpu.physical_cores,
            logical_cores=facts.cpu.logical_cores,
            features=facts.cpu.features,
        ),
        cpu_percent=round(reading.cpu_percent, 1),
        memory_total_bytes=facts.memory_total_bytes,
        memory_used_bytes=reading.memory_used_bytes,
        disk_free_bytes=free_bytes,
        gpus=[
            manage.Gpu(
                index=gpu.index,
                uuid=gpu.uuid,
                name=gpu.name,
                compute_capability=gpu.compute_capability,
                memory_total_bytes=gpu.memory_total_bytes,
                memory_used_bytes=gpu.memory_used_bytes,
                utilization_percent=gpu.utilization_percent,
                temperature_c=gpu.temperature_c,
                power_w=gpu.power_w,
                power_limit_w=gpu.power_limit_w,
            )
            for gpu in reading.gpus
        ],
        gpu_note=reading.gpu_note,
        driver=facts.driver,
    )

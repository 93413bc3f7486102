"""The real NVML bindings, driven by a stub of the driver's library; the real psutil on this machine."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from engines import hardware

ROOT = Path(__file__).parents[2]
GIB = 1 << 30

# Reads twice; between the readings GPU 1 is lost if a file to lose it by is named.
SCRIPT = """
import os, pathlib, sys, msgspec
from engines.hardware import Sampler
sampler = Sampler()
facts, before = sampler.facts(), sampler.read()
if lost := os.environ.get("NVML_STUB_LOST"):
    pathlib.Path(lost).touch()
after = sampler.read()
sampler.close()
sys.stdout.buffer.write(msgspec.json.encode({"facts": facts, "before": before, "after": after}))
"""

Play = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Play:
    """Runs `SCRIPT` in a process that loads the stub as its driver library."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and Linux's loader to stand in for libnvidia-ml.so.1")

    def build(*flags: str) -> Path:
        folder = tmp_path_factory.mktemp("nvml")
        library = folder / "libnvidia-ml.so.1"
        subprocess.run(
            [compiler, "-shared", "-fPIC", *flags, "-o", library, Path(__file__).with_name("nvml_stub.c")],
            check=True,
        )
        return folder

    folders = {"current": build(), "old": build("-DOLD")}

    def run(scene: str = "", driver: str = "current", lost: Path | None = None) -> dict[str, Any]:
        environment = os.environ | {"LD_LIBRARY_PATH": str(folders[driver]), "NVML_STUB_SCENE": scene}
        if lost:
            environment["NVML_STUB_LOST"] = str(lost)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    return run


def test_two_gpus(play: Play) -> None:
    seen = play()
    assert seen["facts"]["driver"] == "575.64"
    assert seen["facts"]["gpu_note"] == ""
    assert [gpu["index"] for gpu in seen["facts"]["gpus"]] == [0, 1]
    assert seen["after"]["gpus"][1] == {
        "index": 1,
        "uuid": "GPU-0000-1",
        "name": "Stub GPU B",
        "compute_capability": "8.9",
        "memory_total_bytes": 24 * GIB,
        "power_limit_w": 450.0,
        "memory_used_bytes": 2 * GIB,
        "utilization_percent": 71.0,
        "temperature_c": 64.0,
        "power_w": 123.4,
    }


def test_refused_readings_are_none_and_the_other_gpu_is_read(play: Play) -> None:
    first, second = play("unreadable")["after"]["gpus"]
    assert first["utilization_percent"] == 71.0
    assert second["name"] == "Stub GPU B"
    for reading in ("memory_total_bytes", "memory_used_bytes", "utilization_percent", "temperature_c", "power_w"):
        assert second[reading] is None


def test_an_old_driver_lacks_functions(play: Play) -> None:
    gpu = play(driver="old")["after"]["gpus"][0]
    assert gpu["power_w"] is None
    assert gpu["memory_used_bytes"] == 3 * GIB, "the older call stands in"
    assert gpu["temperature_c"] == 64.0


def test_a_gpu_lost_at_run_time(play: Play, tmp_path: Path) -> None:
    seen = play(lost=tmp_path / "lost")
    assert seen["before"]["gpus"][1]["temperature_c"] == 64.0
    assert seen["before"]["gpu_note"] == ""
    first, second = seen["after"]["gpus"]
    assert first["temperature_c"] == 64.0
    assert second["uuid"] == "GPU-0000-1" and second["memory_total_bytes"] == 24 * GIB
    assert second["temperature_c"] is None and second["power_w"] is None
    assert seen["after"]["gpu_note"].startswith("GPU 1 (Stub GPU B) no longer answers")


def test_a_gpu_that_cannot_be_opened(play: Play) -> None:
    seen = play("no_handle")
    assert [gpu["index"] for gpu in seen["after"]["gpus"]] == [0]
    assert seen["facts"]["gpu_note"].startswith("GPU 1 cannot be used")


@pytest.mark.parametrize(
    ("scene", "note"),
    [
        ("not_loaded", "The NVIDIA driver is installed but not loaded."),
        ("no_permission", "This user may not read the GPUs."),
        ("no_gpus", "The NVIDIA driver reports no GPU."),
    ],
)
def test_why_no_gpu_is_listed(play: Play, scene: str, note: str) -> None:
    seen = play(scene)
    assert seen["facts"]["gpus"] == seen["after"]["gpus"] == []
    assert seen["facts"]["gpu_note"] == seen["after"]["gpu_note"] == note


def test_this_machine() -> None:
    sampler = hardware.Sampler()
    facts = sampler.facts()
    assert facts.hostname and facts.os
    assert 1 <= facts.cpu.physical_cores <= facts.cpu.logical_cores
    assert facts.memory_total_bytes == psutil.virtual_memory().total
    assert facts.gpus or facts.gpu_note
    sum(number * number for number in range(2_000_000))  # some work for the processor between the readings
    reading = sampler.read()
    assert 0 < reading.cpu_percent <= 100
    assert 0 < reading.memory_used_bytes < facts.memory_total_bytes
    sampler.close()
    assert sampler.read().gpus == [], "a closed sampler still answers"


def test_process_memory() -> None:
    assert (hardware.process_memory_bytes() or 0) > 5_000_000
    with subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.DEVNULL) as process:
        process.wait()
    assert hardware.process_memory_bytes(process.pid) is None


def test_cpuinfo_of_both_architectures() -> None:
    x86 = "processor\t: 0\nmodel name\t: AMD EPYC 9R14\nflags\t\t: fpu sse4_2 avx avx2 avx512f\n\nprocessor\t: 1\n"
    assert hardware.parse_cpuinfo(x86) == ("AMD EPYC 9R14", ["sse4_2", "avx", "avx2", "avx512f"])
    name, features = hardware.parse_cpuinfo("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n")
    assert name and features == ["asimd", "asimddp", "i8mm"]

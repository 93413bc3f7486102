"""Facts about this machine and its readings, through psutil and NVML. A reading that cannot be had is `None`."""

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil

T = TypeVar("T")

#: Instruction sets that engines choose kernels by, of the many a processor has.
# fmt: off
FEATURES = [
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "asimdhp", "i8mm", "bf16",
    "sve", "sve2",
]
# fmt: on


class Cpu(msgspec.Struct, frozen=True):
    """Cores are those this process may run on."""

    name: str
    physical_cores: int
    logical_cores: int
    features: list[str]


class Gpu(msgspec.Struct, frozen=True):
    """One GPU in PCI bus order (CUDA counts alike only under ``CUDA_DEVICE_ORDER=PCI_BUS_ID``)."""

    index: int
    uuid: str
    name: str
    compute_capability: str | None = None
    memory_total_bytes: int | None = None
    power_limit_w: float | None = None
    memory_used_bytes: int | None = None
    utilization_percent: float | None = None
    """Share of the driver's last sampling period (about a second) in which a kernel ran."""
    temperature_c: float | None = None
    power_w: float | None = None


class Facts(msgspec.Struct, frozen=True):
    """What does not change while the machine runs."""

    hostname: str
    os: str
    cpu: Cpu
    memory_total_bytes: int
    gpus: list[Gpu]
    gpu_note: str
    """Why a GPU is missing, in one sentence; empty where nothing is."""
    driver: str | None


class Reading(msgspec.Struct, frozen=True):
    """One moment. ``cpu_percent`` is the mean of all cores since the reading before."""

    cpu_percent: float
    memory_used_bytes: int
    gpus: list[Gpu]
    gpu_note: str


class Sampler:
    """Keeps NVML open between readings. Not thread-safe: one caller at a time, from whichever thread.

    `read` takes well under a millisecond without a GPU; with one, the driver may block for longer.
    """

    def __init__(self) -> None:
        self._cpu_times = _cpu_times()
        self._gpus: list[tuple[Any, Gpu]] = []
        self._nvml: Any = None
        self._driver: str | None = None
        self._note = self._open_nvml()

    def facts(self) -> Facts:
        return Facts(
            hostname=platform.node(),
            os=_os_name(),
            cpu=cpu(),
            memory_total_bytes=psutil.virtual_memory().total,
            gpus=[gpu for _, gpu in self._gpus],
            gpu_note=self._note,
            driver=self._driver,
        )

    def read(self) -> Reading:
        busy, total = _cpu_times()
        busy_before, total_before = self._cpu_times
        self._cpu_times = busy, total
        elapsed = total - total_before
        memory = psutil.virtual_memory()
        gpus, notes = [], [self._note] if self._note else []
        for handle, gpu in self._gpus:
            current, note = self._read_gpu(handle, gpu)
            gpus.append(current)
            notes += [note] if note else []
        return Reading(
            cpu_percent=min(max(100 * (busy - busy_before) / elapsed, 0.0), 100.0) if elapsed > 0 else 0.0,
            memory_used_bytes=memory.total - memory.available,
            gpus=gpus,
            gpu_note=" ".join(notes),
        )

    def close(self) -> None:
        if self._nvml is not None:
            self._try(self._nvml.nvmlShutdown)
        self._nvml, self._gpus = None, []

    def _open_nvml(self) -> str:
        """Finds the GPUs; returns why one is missing."""
        try:
            import pynvml
        except ImportError:
            return "GPUs cannot be read: nvidia-ml-py is not installed."
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            return _no_gpus(pynvml, error)
        self._nvml = pynvml
        self._driver = self._try(pynvml.nvmlSystemGetDriverVersion)
        try:
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            return _no_gpus(pynvml, error)
        notes = [] if count else ["The NVIDIA driver reports no GPU."]
        for index in range(count):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            except pynvml.NVMLError as error:
                notes.append(f"GPU {index} cannot be used ({error}).")
                continue
            self._gpus.append((handle, self._identify(index, handle)))
        return " ".join(notes)

    def _identify(self, index: int, handle: Any) -> Gpu:
        nvml = self._nvml
        capability = self._try(nvml.nvmlDeviceGetCudaComputeCapability, handle)
        memory = self._memory(handle)
        limit_mw = self._try(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        return Gpu(
            index=index,
            uuid=self._try(nvml.nvmlDeviceGetUUID, handle) or f"index-{index}",
            name=self._try(nvml.nvmlDeviceGetName, handle) or f"GPU {index}",
            compute_capability="{}.{}".format(*capability) if capability else None,
            memory_total_bytes=memory.total if memory else None,
            power_limit_w=limit_mw / 1000 if limit_mw is not None else None,
        )

    def _read_gpu(self, handle: Any, gpu: Gpu) -> tuple[Gpu, str]:
        """The GPU with its readings, and whether it has gone."""
        nvml = self._nvml
        memory = self._memory(handle)
        utilization = self._try(nvml.nvmlDeviceGetUtilizationRates, handle)
        temperature_c = self._try(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        power_mw = self._try(nvml.nvmlDeviceGetPowerUsage, handle)
        reading = msgspec.structs.replace(
            gpu,
            memory_used_bytes=memory.used if memory else None,
            utilization_percent=float(utilization.gpu) if utilization else None,
            temperature_c=float(temperature_c) if temperature_c is not None else None,
            power_w=power_mw / 1000 if power_mw is not None else None,
        )
        if memory or utilization or temperature_c is not None or power_mw is not None:
            return reading, ""
        try:
            nvml.nvmlDeviceGetUtilizationRates(handle)
        except nvml.NVMLError as error:
            return reading, f"GPU {gpu.index} ({gpu.name}) no longer answers: {error}."
        return reading, ""

    def _memory(self, handle: Any) -> Any:
        """Version 2 leaves out what the driver reserves for itself, as nvidia-smi does; old drivers lack it."""
        nvml = self._nvml
        memory = self._try(nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)
        return memory if memory is not None else self._try(nvml.nvmlDeviceGetMemoryInfo, handle)

    def _try(self, call: Callable[..., T], *args: Any) -> T | None:
        try:
            return call(*args)
        except (self._nvml.NVMLError, UnicodeDecodeError):
            return None


def process_memory_bytes(pid: int | None = None) -> int | None:
    """Resident memory of a process (default: this one); `None` once it has gone or may not be looked at."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def cpu() -> Cpu:
    """The processor, and the cores of it that this process may use."""
    name, features = _cpu_name_and_features()
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1
    physical = min(psutil.cpu_count(logical=False) or logical, logical)
    return Cpu(name=name, physical_cores=physical, logical_cores=logical, features=features)


def _no_gpus(nvml: Any, error: Any) -> str:
    return {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "No NVIDIA driver is installed.",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "The NVIDIA driver is installed but not loaded.",
        nvml.NVML_ERROR_NO_PERMISSION: "This user may not read the GPUs.",
        nvml.NVML_ERROR_FUNCTION_NOT_FOUND: "The NVIDIA driver is too old for its GPUs to be read.",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "The NVIDIA driver was updated: restart the machine.",
    }.get(error.value, f"The GPUs cannot be read: {error}.")


def _cpu_times() -> tuple[float, float]:
    """Busy and total seconds of all cores since the start of the machine.

    `psutil.cpu_percent` remembers the last reading per thread, which a pool of threads defeats.
    """
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Linux counts the time of guests a second time, in user and nice.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - idle, total


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}".strip()


def _cpu_name_and_features() -> tuple[str, list[str]]:
    if sys.platform == "linux":
        try:
            return parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
        except OSError:
            pass
    if sys.platform == "win32":
        import ctypes
        import winreg

        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key:
                name = str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
        except OSError:
            name = platform.processor()
        present = ctypes.windll.kernel32.IsProcessorFeaturePresent  # numbers: PF_*_INSTRUCTIONS_AVAILABLE
        numbers = {"sse4_2": 38, "avx": 39, "avx2": 40, "avx512f": 41}
        return name, [feature for feature, number in numbers.items() if present(number)]
    return platform.processor() or platform.machine(), []


def parse_cpuinfo(text: str) -> tuple[str, list[str]]:
    """Name and `FEATURES` from the text of ``/proc/cpuinfo``; ARM kernels give no name."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            values.setdefault(key.strip().lower(), value.strip())
    flags = set((values.get("flags") or values.get("features") or "").split())
    return values.get("model name") or platform.machine(), [flag for flag in FEATURES if flag in flags]

"""What this interpreter can serve: one JSON document on standard output.

`[{"engine": "onnxruntime", "version": "1.23.0", "devices": ["cpu"], "usable": true, "reason": ""}]`. Runs in a
process of its own, because finding out means importing native libraries.
"""

import ctypes
import json
import sys
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path
from typing import Any


def onnxruntime() -> dict[str, Any]:
    import onnxruntime as ort

    devices = ["cpu"]
    reason = ""
    if "CUDAExecutionProvider" in ort.get_available_providers():
        # The GPU wheel lists CUDA on any machine: only the driver and the provider's own libraries decide.
        if not _driver():
            reason = "it has a CUDA provider, but there is no NVIDIA driver"
        elif missing := _cuda_provider_error(ort):
            reason = f"it has a CUDA provider that does not load: {missing}"
        else:
            devices = ["cuda", "cpu"]
    return {"version": ort.__version__, "devices": devices, "usable": True, "reason": reason}


def _driver() -> bool:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return False
    count = ctypes.c_int()
    return library.cuInit(0) == 0 and library.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def _cuda_provider_error(ort: Any) -> str:
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    folder = Path(ort.__file__).parent / "capi"
    name = "onnxruntime_providers_cuda.dll" if sys.platform == "win32" else "libonnxruntime_providers_cuda.so"
    shared = "onnxruntime_providers_shared.dll" if sys.platform == "win32" else "libonnxruntime_providers_shared.so"
    try:
        ctypes.CDLL(str(folder / shared), mode=getattr(ctypes, "RTLD_GLOBAL", 0))
        ctypes.CDLL(str(folder / name))
    except OSError as error:
        return str(error)
    return ""


def llamacpp() -> dict[str, Any]:
    import llama_cpp

    gpu = bool(llama_cpp.llama_supports_gpu_offload())
    return {
        "version": llama_cpp.__version__,
        "devices": ["cuda", "cpu"] if gpu and _driver() else ["cpu"],
        "usable": True,
        "reason": "",
    }


ENGINES: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "onnxruntime": ("onnxruntime", onnxruntime),
    "llamacpp": ("llama_cpp", llamacpp),
}


def both_onnxruntimes() -> bool:
    """The two wheels own the same folder; where both are installed, neither can be trusted."""
    present = {(entry.metadata["Name"] or "").lower() for entry in metadata.distributions()}
    return {"onnxruntime", "onnxruntime-gpu"} <= present


def main() -> int:
    found = []
    for name, (module, look) in ENGINES.items():
        if util.find_spec(module) is None:
            continue
        try:
            report = look()
        except Exception as error:  # an import that fails is the finding
            report = {"version": None, "devices": [], "usable": False, "reason": f"{type(error).__name__}: {error}"}
        if name == "onnxruntime" and both_onnxruntimes():
            report |= {
                "usable": False,
                "reason": "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
            }
        found.append({"engine": name, **report})
    print(json.dumps(found))
    return 0

"""What ONNX Runtime raises, in the words of who can act on it. Pure."""

import re

import onnxruntime as ort

from engines.engine import EngineError

_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : (\w+) : ")
_INPUT = re.compile(r"Invalid rank for input: (.+?) Got|invalid dimensions for input: (.+?) for the|input name: *(.+)$")
_MEMORY = re.compile(r"failed to allocate|alloc_failed|bad_alloc|out of memory|bad allocation", re.IGNORECASE)
#: A model that ran before and fails now fails on what it was given.
_REQUEST = ("INVALID_ARGUMENT", "RUNTIME_EXCEPTION", "Non-zero status code", "Required inputs")


def run_error(error: Exception) -> EngineError:
    """``out_of_memory``, ``invalid_input`` (naming the input where it can be told) or ``engine_failed``."""
    text, raw = one_line(error), str(error)
    if _MEMORY.search(text):
        return EngineError("out_of_memory", text, hint="send fewer rows, or set a smaller max_batch_size")
    if "CUDA failure" in text or "terminate flag" in text or not any(word in raw for word in _REQUEST):
        return EngineError("engine_failed", text)
    found = _INPUT.search(text)
    return EngineError("invalid_input", text, field=next(filter(None, found.groups()), "") if found else "")


def load_error(error: Exception, file: str, provider: str, device: str) -> EngineError:
    """``device_unavailable``, ``out_of_memory`` or ``bad_model``."""
    text = one_line(error)
    lowered = text.lower()
    if device != "cpu" and ("provider" in lowered or "cuda" in lowered or "fallback" in lowered):
        return EngineError(
            "device_unavailable",
            f"{provider} did not load: {text}",
            hint="see `pilothouse doctor`, or deploy with --set device=cpu",
        )
    if _MEMORY.search(text):
        return EngineError("out_of_memory", f"not enough memory to load {file}: {text}")
    return EngineError(
        "bad_model",
        f"{file} is not a model that ONNX Runtime {ort.__version__} can load: {text}",
        hint="check that the file is complete and is ONNX",
    )


def one_line(error: Exception) -> str:
    return _CODE.sub("", " ".join(str(error).split()))[:400]

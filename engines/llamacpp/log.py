"""What llama.cpp logs, kept to explain its failures: its calls answer only that they failed."""

import ctypes
import re
from collections import deque

import llama_cpp

_WARN, _ERROR = 3, 4
_lines: deque[str] = deque(maxlen=40)
#: What it did without being asked how it went.
_deeds: dict[str, str] = {}
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
#: Words that introduce the reason itself in a line.
_INTRODUCTIONS = ("error loading model: ", "failed to apply lora adapter: ", "error: ")


@llama_cpp.llama_log_callback
def keep(level: int, text: bytes, _: object) -> None:
    """The callback that every log of llama.cpp's libraries is given; must outlive them, so it lives here."""
    if level in (_WARN, _ERROR):
        _lines.append(text.decode("utf-8", "replace").strip())
    elif b"offloaded" in text:
        _deeds["offloaded"] = text.decode("utf-8", "replace")


def install() -> None:
    """Keep what llama.cpp and ggml log from now on."""
    llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
    _lines.clear()
    _deeds.clear()


def clear() -> None:
    """Forget what was logged: what follows explains the next call."""
    _lines.clear()


def reason() -> str:
    """The log line that says most about the last failure."""
    lines = [line for line in _lines if line]
    for introduction in _INTRODUCTIONS:
        for line in reversed(lines):
            if introduction in line:
                return line.rpartition(introduction)[2]
    return lines[-1] if lines else "no reason given"


def offloaded() -> tuple[int, int] | None:
    """Layers of the model that was loaded last that are on a GPU, and how many it has; `None`: it did not say."""
    found = _OFFLOADED.search(_deeds.get("offloaded", ""))
    return (int(found[1]), int(found[2])) if found else None


def about_memory() -> bool:
    """Whether the last failure was for want of memory."""
    return any("alloc" in line or "out of memory" in line for line in _lines)

"""LoRA adapters: several small changes to one model's weights, one of which is in force at a time."""

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp

from engines.engine import EngineError
from engines.llamacpp import log


@dataclass(frozen=True)
class Adapter:
    """One loaded adapter, and what its file says about it."""

    name: str
    handle: Any
    """``llama_adapter_lora *``"""
    alpha: float = 0.0
    """What the file's product of matrices is scaled by is this over its rank."""
    task: str = ""
    """What it was trained for (``adapter.lora.task_name``)."""
    prompt_prefix: str = ""
    """What it was trained to see before a prompt; adding it is up to the caller."""


class Adapters:
    """Adapters of ``model`` (``llama_model *``) by the names that requests choose them with. Close them before the
    model is freed. A model with adapters runs exactly as before while none is in force.

    Raises `EngineError` (``bad_model``) naming the adapter whose file is missing, no adapter, or of another model;
    ``out_of_memory``.
    """

    def __init__(self, model: Any, paths: Mapping[str, str]):
        self._loaded: dict[str, Adapter] = {}
        self._active: dict[int, tuple[str, float]] = {}
        try:
            for name, path in paths.items():
                self._loaded[name] = _load(model, name, path)
        except EngineError:
            self.close()
            raise

    @property
    def names(self) -> list[str]:
        return list(self._loaded)

    def __getitem__(self, name: str) -> Adapter:
        """Raises `EngineError` (``invalid_input``) where there is none of that name."""
        try:
            return self._loaded[name]
        except KeyError:
            known = ", ".join(self._loaded) or "none is loaded"
            raise EngineError(
                "invalid_input", f"there is no adapter named {name}", hint=f"Adapters: {known}.", field="adapter"
            ) from None

    def apply(self, context: Any, name: str, scale: float = 1.0) -> bool:
        """Let everything that ``context`` computes from now on go through adapter ``name``; "" is the model itself.
        Says whether that changed anything: what is in the key-value memory was computed with what was in force then,
        and a change makes llama.cpp lay out its buffers anew.

        Raises `EngineError` (``invalid_input``).
        """
        wanted = (name, scale if name else 0.0)
        if self._active.get(_address(context), ("", 0.0)) == wanted:
            return False
        if name:
            handle = self[name].handle
            handles, scales = (type(handle) * 1)(handle), (ctypes.c_float * 1)(scale)
            llama_cpp.llama_set_adapters_lora(context, handles, 1, scales)
        else:
            llama_cpp.llama_set_adapters_lora(context, None, 0, None)
        self._active[_address(context)] = wanted
        return True

    def close(self) -> None:
        """Free them all. No context may use one of them any more: `apply` "" first, or free the contexts."""
        for adapter in self._loaded.values():
            llama_cpp.llama_adapter_lora_free(adapter.handle)
        self._loaded.clear()
        self._active.clear()


def _address(pointer: Any) -> int:
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def _load(model: Any, name: str, path: str) -> Adapter:
    if not Path(path).is_file():
        raise EngineError("bad_model", f"the file of adapter {name} is not there: {Path(path).name}")
    log.clear()
    handle = llama_cpp.llama_adapter_lora_init(model, os.fsencode(path))
    if not handle:
        if log.about_memory():
            raise EngineError("out_of_memory", f"not enough memory for adapter {name}: {log.reason()}")
        raise EngineError(
            "bad_model",
            f"adapter {name} does not fit this model: {log.reason()}",
            hint="An adapter is a GGUF file made for this very model by convert_lora_to_gguf.py.",
        )
    alpha = _text(handle, b"adapter.lora.alpha")
    if llama_cpp.llama_adapter_get_alora_n_invocation_tokens(handle):
        llama_cpp.llama_adapter_lora_free(handle)
        raise EngineError("bad_model", f"adapter {name} is an activated LoRA (aLoRA), which is not served")
    return Adapter(
        name,
        handle,
        alpha=float(alpha or 0),
        task=_text(handle, b"adapter.lora.task_name"),
        prompt_prefix=_text(handle, b"adapter.lora.prompt_prefix"),
    )


def _text(handle: Any, key: bytes) -> str:
    """A value of the adapter's header; empty where there is none."""
    read = llama_cpp.llama_adapter_meta_val_str
    size = read(handle, key, None, 0)
    if size < 0:
        return ""
    buffer = ctypes.create_string_buffer(size + 1)
    read(handle, key, buffer, size + 1)
    return buffer.value.decode("utf-8", "replace")

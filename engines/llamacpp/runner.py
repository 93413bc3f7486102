"""Every call into llama.cpp: loading, tokens and pieces, the batch, the decode, the key-value memory.

Bound to llama-cpp-python's low-level API. One `Runner` owns one model and one context, and belongs to one thread.
"""

import ctypes
import os
from collections import deque
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engines.engine import EngineError

# Read when libgomp loads. Its default spins for milliseconds at each barrier: when anything else wants a core, the
# spinning thread keeps it from the one it waits for, and 60 tokens/s became 2. At 1,000 an idle machine is no slower.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import llama_cpp

GGUF_MAGIC = b"GGUF"
#: Physical batch of llama.cpp, tokens: how much one pass over the weights computes.
UBATCH_TOKENS = 512

_LOG_WARN, _LOG_ERROR = 3, 4
_log_lines: deque[str] = deque(maxlen=40)


@llama_cpp.llama_log_callback
def _keep_log(level: int, text: bytes, _: object) -> None:
    if level in (_LOG_WARN, _LOG_ERROR):
        _log_lines.append(text.decode("utf-8", "replace").strip())


class Row(NamedTuple):
    """Tokens of one sequence to put into a batch: ``tokens`` at positions ``start``, ``start`` + 1, … of
    ``slot``. ``logits``: whether the last of them asks for the distribution of the token after it."""

    slot: int
    start: int
    tokens: list[int]
    logits: bool


class KvFull(Exception):
    """`Runner.decode` found no room; the memory is as it was before the call."""


class Runner:
    """``kv_tokens`` cells of key-value memory shared by ``sequences`` slots, at most ``batch_tokens`` a decode.

    Raises `EngineError`: ``bad_model``, ``out_of_memory``, ``device_unavailable``.
    """

    def __init__(self, path: str, device: str, threads: int):
        llama_cpp.llama_log_set(_keep_log, ctypes.c_void_p(0))
        _log_lines.clear()
        llama_cpp.llama_backend_init()
        self._context: Any = None
        self._memory: Any = None
        self._threads = threads
        self._device = device
        self._model = _load_model(path, device)
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._pieces: dict[int, bytes] = {}
        if not llama_cpp.llama_model_has_decoder(self._model) or llama_cpp.llama_model_has_encoder(self._model):
            raise EngineError("bad_model", f"{Path(path).name} is not a decoder-only language model")
        self.vocabulary: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.trained_context: int = llama_cpp.llama_model_n_ctx_train(self._model)
        self.parameters: int = llama_cpp.llama_model_n_params(self._model)
        self.description = _string(llama_cpp.llama_model_desc, self._model)
        #: Recurrent and hybrid models keep one state per sequence, which cannot be cut back to a prefix.
        self.can_cut = not (
            llama_cpp.llama_model_is_recurrent(self._model) or llama_cpp.llama_model_is_hybrid(self._model)
        )
        template = llama_cpp.llama_model_chat_template(self._model, None)
        self.chat_template: str | None = template.decode("utf-8", "replace") if template else None

    def open_context(self, sequences: int, kv_tokens: int, batch_tokens: int) -> None:
        """Allocate the memory and run the model once. Raises `EngineError` (``out_of_memory``)."""
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = kv_tokens
        params.n_batch = batch_tokens
        params.n_ubatch = min(UBATCH_TOKENS, batch_tokens)
        params.n_seq_max = sequences
        # Only the last token of a sequence needs logits; without this, buffers for n_batch x vocabulary.
        params.n_outputs_max = sequences
        params.n_threads = params.n_threads_batch = self._threads
        # With one stream per sequence llama.cpp splits a step into many micro-batches unless ids increase.
        params.kv_unified = True
        # A sliding-window cache forgets the prefix that the next request wants to reuse.
        params.swa_full = True
        params.offload_kqv = params.op_offload = self._device != "cpu"
        _log_lines.clear()
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            code = "out_of_memory" if _about_memory() else "engine_failed"
            raise EngineError(
                code,
                f"no context of {kv_tokens} tokens for {sequences} sequences: {_reason()}",
                hint="Lower context_tokens or sequences.",
            )
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._fill_buffers(batch_tokens)
        self._warm_up()

    def _fill_buffers(self, batch_tokens: int) -> None:
        # One batch for the life of the context, written through numpy: no call per token.
        self._token = np.zeros(batch_tokens, np.int32)
        self._position = np.zeros(batch_tokens, np.int32)
        self._slot = np.zeros(batch_tokens, np.int32)
        self._wants_logits = np.zeros(batch_tokens, np.int8)
        self._slots_per_token = np.ones(batch_tokens, np.int32)
        self._slot_pointers = (self._slot.ctypes.data + np.arange(batch_tokens) * self._slot.itemsize).astype(np.uintp)

        def pointer(array: np.ndarray, kind: type) -> object:
            return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))

        self._batch = llama_cpp.llama_batch(
            0,
            pointer(self._token, ctypes.c_int32),
            None,
            pointer(self._position, ctypes.c_int32),
            pointer(self._slots_per_token, ctypes.c_int32),
            ctypes.cast(self._slot_pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            pointer(self._wants_logits, ctypes.c_int8),
        )

    def _warm_up(self) -> None:
        token = max(llama_cpp.llama_vocab_bos(self._vocab), 0)
        llama_cpp.llama_set_warmup(self._context, True)
        self.decode([Row(0, 0, [token], True)])
        llama_cpp.llama_set_warmup(self._context, False)
        llama_cpp.llama_memory_clear(self._memory, True)

    # --- text and tokens ----------------------------------------------------------------------------------

    @cached_property
    def end_tokens(self) -> np.ndarray:
        """Ids of every token that ends a generation (end of text, of turn, …). int64 [n]"""
        is_end = llama_cpp.llama_vocab_is_eog
        return np.array([t for t in range(self.vocabulary) if is_end(self._vocab, t)], np.int64)

    def is_end(self, token: int) -> bool:
        return llama_cpp.llama_vocab_is_eog(self._vocab, token)

    @property
    def bos_text(self) -> str:
        return self._special_text(llama_cpp.llama_vocab_bos(self._vocab))

    @property
    def eos_text(self) -> str:
        return self._special_text(llama_cpp.llama_vocab_eos(self._vocab))

    def _special_text(self, token: int) -> str:
        return "" if token < 0 else llama_cpp.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")

    def tokenize(self, text: str, add_special: bool = True) -> list[int]:
        """``add_special``: begin (and end) as the model was trained to. Special tokens in ``text`` are parsed."""
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        while True:
            tokens = (ctypes.c_int32 * room)()
            count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, room, add_special, True)
            if count >= 0:
                return tokens[:count]
            room = -count

    def piece(self, token: int) -> bytes:
        """The bytes of a token, possibly part of a character; control tokens have none."""
        if (known := self._pieces.get(token)) is not None:
            return known
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            size = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
            if size >= 0:
                return self._pieces.setdefault(token, buffer.raw[:size])
            room = -size

    # --- the key-value memory -----------------------------------------------------------------------------

    def keep(self, slot: int, count: int) -> None:
        """Forget everything in ``slot`` from position ``count`` on."""
        if not llama_cpp.llama_memory_seq_rm(self._memory, slot, count, -1):
            llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def copy(self, source: int, target: int, count: int) -> None:
        """Let ``target`` share the first ``count`` cells of ``source``; what it held is forgotten."""
        llama_cpp.llama_memory_seq_rm(self._memory, target, -1, -1)
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, count)

    def decode(self, rows: Iterable[Row]) -> np.ndarray:
        """Compute one batch. Returns float32 [rows that want logits, vocabulary], in the order of ``rows``: a
        writable view of llama.cpp's own buffer, good until the next call.

        Raises `KvFull`, or `EngineError` (``engine_failed``), after which what the slots hold is unknown.
        """
        size = outputs = 0
        for slot, start, tokens, logits in rows:
            end = size + len(tokens)
            self._token[size:end] = tokens
            self._position[size:end] = range(start, start + len(tokens)) if len(tokens) > 1 else start
            self._slot[size:end] = slot
            self._wants_logits[size:end] = 0
            if logits:
                self._wants_logits[end - 1] = 1
                outputs += 1
            size = end
        self._batch.n_tokens = size
        status = llama_cpp.llama_decode(self._context, self._batch)
        if status == 1:
            raise KvFull
        if status != 0:
            raise EngineError("engine_failed", f"llama_decode answered {status}: {_reason()}")
        if not outputs:
            return np.empty((0, self.vocabulary), np.float32)
        logits = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, (outputs, self.vocabulary))

    def close(self) -> None:
        if self._context:
            llama_cpp.llama_free(self._context)
            self._context = None
        if self._model:
            llama_cpp.llama_model_free(self._model)
            self._model = None


def provider() -> str:
    """What llama.cpp says it runs on: ``CPU : AVX2 AVX512 …``, ``CUDA : … | CPU : …``."""
    parts: list[tuple[str, list[str]]] = []
    names: list[str] = []
    for field in llama_cpp.llama_print_system_info().decode().split("|"):
        name, _, value = field.strip().rpartition(" = ")
        if " : " in name:
            backend, _, name = name.partition(" : ")
            names = []
            parts.append((backend, names))
        if value == "1":
            names.append(name)
    return " | ".join(f"{backend} : {' '.join(names)}" for backend, names in parts)


def version() -> str:
    return f"{llama_cpp.__version__} (llama.cpp {llama_cpp.llama_version().decode()})"


def usable_threads() -> int:
    """Physical cores that this process may run on: a second thread on a core only gets in the way."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        import psutil
    except ImportError:
        return allowed
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def resident_bytes() -> int:
    """Resident memory of this process; 0 where it cannot be read."""
    try:
        import psutil
    except ImportError:
        return 0
    return psutil.Process().memory_info().rss


def _load_model(path: str, device: str) -> Any:
    file = Path(path)
    try:
        with file.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise EngineError("bad_model", f"{file.name} cannot be read: {error.strerror}") from error
    if magic != GGUF_MAGIC:
        raise EngineError(
            "bad_model",
            f"{file.name} is not a GGUF file (it begins with {magic!r})",
            hint="Pull or convert it again.",
        )
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    if device != "cpu":
        index = device.removeprefix("cuda:")
        if not index.isdecimal():
            raise EngineError("device_unavailable", f"llama.cpp has no device {device}")
        if not llama_cpp.llama_supports_gpu_offload():
            raise EngineError(
                "device_unavailable",
                f"{device} was asked for, but this build of llama.cpp sees no GPU",
                hint="Install the runtime llamacpp-cuda, or choose the CPU.",
            )
        params.n_gpu_layers = -1
        params.split_mode = llama_cpp.LLAMA_SPLIT_MODE_NONE
        params.main_gpu = int(index)
    model = llama_cpp.llama_model_load_from_file(os.fsencode(file), params)
    if model:
        return model
    reason = _reason()
    if "main_gpu" in reason:
        raise EngineError("device_unavailable", f"{device} is not there: {reason}")
    if _about_memory():
        raise EngineError("out_of_memory", f"not enough memory to load {file.name}: {reason}")
    raise EngineError("bad_model", f"llama.cpp cannot load {file.name}: {reason}", hint="Pull or convert it again.")


def _reason() -> str:
    """The log line that says most about the last failure."""
    lines: Sequence[str] = [line for line in _log_lines if line]
    telling = [line for line in lines if "error loading model: " in line] or lines[-1:]
    return telling[-1].rpartition("error loading model: ")[2] if telling else "no reason given"


def _about_memory() -> bool:
    return any("alloc" in line or "out of memory" in line for line in _log_lines)


def _string(function: object, *arguments: object) -> str:
    buffer = ctypes.create_string_buffer(512)
    function(*arguments, buffer, len(buffer))  # type: ignore[operator]
    return buffer.value.decode("utf-8", "replace")

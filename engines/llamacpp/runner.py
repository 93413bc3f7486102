"""Every call into llama.cpp: loading, tokens and pieces, the batch, the decode, the key-value memory.

Bound to llama-cpp-python's low-level API. One `Runner` owns one model and one context, and belongs to one thread.
"""

import contextlib
import ctypes
import os
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp
import numpy as np

from engines import hardware
from engines.engine import EngineError
from engines.llamacpp import log
from engines.llamacpp.settings import Settings

GGUF_MAGIC = b"GGUF"
#: Physical batch of llama.cpp, tokens: how much one pass over the weights computes.
UBATCH_TOKENS = 512

_CACHE_TYPES = {
    "f32": llama_cpp.GGML_TYPE_F32,
    "f16": llama_cpp.GGML_TYPE_F16,
    "bf16": 30,  # GGML_TYPE_BF16, which the bindings do not name
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
    "q4_1": llama_cpp.GGML_TYPE_Q4_1,
    "q5_0": llama_cpp.GGML_TYPE_Q5_0,
    "q5_1": llama_cpp.GGML_TYPE_Q5_1,
    "iq4_nl": llama_cpp.GGML_TYPE_IQ4_NL,
}
#: Bits of one value, the scales of its block included.
_CACHE_BITS = {
    "f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q4_0": 4.5, "q4_1": 5, "q5_0": 5.5, "q5_1": 6, "iq4_nl": 4.5
}  # fmt: skip
_FLASH_ATTENTION = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
_SPLIT_MODES = {
    "none": llama_cpp.LLAMA_SPLIT_MODE_NONE,
    "layer": llama_cpp.LLAMA_SPLIT_MODE_LAYER,
    "row": llama_cpp.LLAMA_SPLIT_MODE_ROW,
}


class Row(NamedTuple):
    """Tokens of one sequence to put into a batch: ``tokens`` at positions ``start``, ``start`` + 1, … of
    ``slot``. The last ``outputs`` of them ask for the distribution of the token after each."""

    slot: int
    start: int
    tokens: list[int]
    outputs: int


class KvFull(Exception):
    """`Runner.decode` found no room; the memory is as it was before the call."""


class Runner:
    """One model; `open_context` gives it key-value memory.

    Raises `EngineError`: ``bad_model``, ``out_of_memory``, ``device_unavailable``.
    """

    def __init__(self, path: str, device: str, threads: int, settings: Settings):
        log.install()
        llama_cpp.llama_backend_init()
        self._context: Any = None
        self._memory: Any = None
        self._threads = threads
        self._device = device
        self._streams = False
        self._model = _load_model(path, device, settings)
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._pieces: dict[int, bytes] = {}
        self.vocabulary: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.trained_context: int = llama_cpp.llama_model_n_ctx_train(self._model)
        self.parameters: int = llama_cpp.llama_model_n_params(self._model)
        self.embedding_length: int = llama_cpp.llama_model_n_embd_out(self._model)
        self.description = _string(llama_cpp.llama_model_desc, self._model)
        #: Recurrent and hybrid models keep one state per sequence, which cannot be cut back to a prefix.
        self.can_cut = not (
            llama_cpp.llama_model_is_recurrent(self._model) or llama_cpp.llama_model_is_hybrid(self._model)
        )
        #: Tokens that the layers with sliding-window attention look back; 0: there are none.
        self.window: int = llama_cpp.llama_model_n_swa(self._model)
        if self.window and not settings.swa_full:
            self.can_cut = False  # What the window has passed is gone.
        template = llama_cpp.llama_model_chat_template(self._model, None)
        self.chat_template: str | None = template.decode("utf-8", "replace") if template else None
        self.architecture = self.metadata("general.architecture")

    @property
    def quantization(self) -> str:
        """As file names say it: ``Q4_K_M``, ``F16``."""
        # llama.cpp describes a model as "gemma3 270M Q4_K - Medium".
        words = self.description.partition(" - ")
        kind = words[0].rpartition(" ")[2]
        return f"{kind}_{words[2][0]}" if words[2] else kind

    @property
    def model(self) -> Any:
        """``llama_model *``"""
        return self._model

    @property
    def vocab(self) -> Any:
        """``const llama_vocab *``"""
        return self._vocab

    @property
    def context(self) -> Any:
        """``llama_context *``, after `open_context`."""
        return self._context

    def metadata(self, key: str) -> str:
        """A value of the file's header as text; empty where there is none."""
        size = llama_cpp.llama_model_meta_val_str(self._model, key.encode(), None, 0)
        if size < 0:
            return ""
        buffer = ctypes.create_string_buffer(size + 1)
        llama_cpp.llama_model_meta_val_str(self._model, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    def cell_bytes(self, settings: Settings) -> int:
        """Bytes of one key-value cell over all layers."""
        heads = llama_cpp.llama_model_n_head_kv(self._model)
        width = llama_cpp.llama_model_n_embd(self._model) // max(1, llama_cpp.llama_model_n_head(self._model))

        def length(of: str) -> int:
            said = self.metadata(f"{self.architecture}.attention.{of}_length")
            return int(said) if said.isdecimal() else width

        row = heads * (
            length("key") * _CACHE_BITS[settings.cache_type_k] + length("value") * _CACHE_BITS[settings.cache_type_v]
        )
        return int(llama_cpp.llama_model_n_layer(self._model) * row / 8)

    def open_context(self, settings: Settings, ubatch_tokens: int = UBATCH_TOKENS) -> None:
        """Allocate the memory and run the model once; ``ubatch_tokens`` are computed in one pass at most.

        Raises `EngineError` (``out_of_memory``, ``bad_setting``).
        """
        sequences, kv_tokens, batch_tokens = settings.sequences, settings.kv_tokens, settings.batch_tokens
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = kv_tokens
        params.n_batch = batch_tokens
        params.n_ubatch = min(ubatch_tokens, batch_tokens)
        params.n_seq_max = sequences
        # Only what is sampled from needs logits; without this, buffers for n_batch x vocabulary.
        drafts = settings.draft_tokens if settings.speculative != "off" else 0
        params.n_outputs_max = min(batch_tokens, sequences * (1 + drafts))
        params.n_threads = params.n_threads_batch = self._threads
        # In one pool a token's attention walks over all cells: 8 prompts of 2,000 tokens took 1.6 times as long.
        self._streams = settings.streams
        params.kv_unified = not self._streams
        # A sliding-window cache forgets the prefix that the next request wants to reuse.
        params.swa_full = settings.swa_full
        params.type_k, params.type_v = _CACHE_TYPES[settings.cache_type_k], _CACHE_TYPES[settings.cache_type_v]
        params.flash_attn_type = _FLASH_ATTENTION[settings.flash_attention]
        params.offload_kqv = params.op_offload = self._device != "cpu"
        log.clear()
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            reason = log.reason()
            code = "out_of_memory" if log.about_memory() else "engine_failed"
            if "quantized V cache" in reason or "V cache quantization" in reason:
                code = "bad_setting"
            raise EngineError(
                code,
                f"no context of {kv_tokens} tokens for {sequences} sequences: {reason}",
                hint="Lower context_tokens or sequences."
                if code == "out_of_memory"
                else "A quantised cache_type_v needs flash_attention on.",
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
        self.decode([Row(0, 0, [token], 1)])
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

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """``add_special``: begin (and end) as the model was trained to. ``parse_special``: the names of special tokens
        in ``text`` mean those tokens."""
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        while True:
            tokens = (ctypes.c_int32 * room)()
            count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, room, add_special, parse_special)
            if count >= 0:
                return tokens[:count]
            room = -count

    def is_special(self, text: str) -> int | None:
        """The token whose name is ``text`` and which is no text to a grammar: a control token, or one that a user
        defined in the same form (as `grammar.read_vocabulary` tells them apart)."""
        tokens = self.tokenize(text, add_special=False)
        if len(tokens) != 1:
            return None
        attributes = llama_cpp.llama_vocab_get_attr(self._vocab, tokens[0])
        named = attributes & llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED and re.fullmatch(r"<.*>", text, re.DOTALL)
        return tokens[0] if attributes & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL or named else None

    def piece(self, token: int, special: bool = False) -> bytes:
        """The bytes of a token, possibly part of a character; control tokens have none unless ``special``."""
        if not special and (known := self._pieces.get(token)) is not None:
            return known
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            size = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if size >= 0:
                return buffer.raw[:size] if special else self._pieces.setdefault(token, buffer.raw[:size])
            room = -size

    # --- the key-value memory -----------------------------------------------------------------------------

    def keep(self, slot: int, count: int) -> None:
        """Forget everything in ``slot`` from position ``count`` on."""
        if not llama_cpp.llama_memory_seq_rm(self._memory, slot, count, -1):
            llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def copy(self, source: int, target: int, count: int) -> None:
        """Give ``target`` the first ``count`` cells of ``source``; what it held is forgotten."""
        memory = self._memory
        length = llama_cpp.llama_memory_seq_pos_max(memory, source) + 1
        if self._streams and not 0 < self.window < length:
            # Between streams llama.cpp copies whole buffers, 65 ms for 4,096 cells of Gemma 270M; the cells in use
            # alone take 2 ms for 400 of them.
            with contextlib.suppress(EngineError, MemoryError):
                self._set_state(target, self._get_state(source))
                self.keep(target, count)
                return
        llama_cpp.llama_memory_seq_rm(memory, target, -1, -1)
        if self._streams:
            llama_cpp.llama_memory_seq_cp(memory, source, target, -1, -1)
            self.keep(target, count)
        else:
            llama_cpp.llama_memory_seq_cp(memory, source, target, 0, count)

    def save(self, slot: int) -> np.ndarray:
        """The state of ``slot``, to be given to `restore`. uint8 [bytes]. Where it is longer than the model's window,
        the slot holds nothing of use afterwards.

        llama.cpp leaves out what a sliding window has passed, so such a state is good at its end only: the states of
        the window's layers at each multiple of it go with it. The blob is ``u64 states | (u64 count, u64 bytes) for
        each | the states``, the whole one first.
        """
        length = llama_cpp.llama_memory_seq_pos_max(self._memory, slot) + 1
        states = [(length, self._get_state(slot))]
        if 0 < self.window < length:
            for count in range((length - 1) // self.window * self.window, 0, -self.window):
                llama_cpp.llama_memory_seq_rm(self._memory, slot, count, -1)
                states.append((count, self._get_state(slot, llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY)))
        head = np.array([len(states), *(n for count, state in states for n in (count, state.size))], np.uint64)
        return np.concatenate([head.view(np.uint8), *(state for _, state in states)])

    def restore(self, slot: int, blob: np.ndarray, count: int) -> None:
        """Put a saved state into ``slot`` instead of what it held, and forget it from position ``count`` on: its end,
        one less, or what `save` kept a state for. Raises `EngineError`, after which the slot is empty."""
        states = int(blob[:8].view(np.uint64)[0])
        head = blob[8 : 8 + 16 * states].view(np.uint64).reshape(states, 2)
        ends = 8 + 16 * states + np.cumsum(head[:, 1])
        self._set_state(slot, blob[8 + 16 * states : ends[0]])
        length = int(head[0, 0])
        self.keep(slot, count)
        if 0 < self.window < length and count < length - 1:
            for i in range(1, states):
                if int(head[i, 0]) == count:
                    self._set_state(slot, blob[ends[i - 1] : ends[i]], llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY)
                    return
            self.keep(slot, 0)
            raise EngineError("engine_failed", f"a saved state of {length} tokens cannot be cut to {count}")

    def _get_state(self, slot: int, flags: int = 0) -> np.ndarray:
        state = np.empty(llama_cpp.llama_state_seq_get_size_ext(self._context, slot, flags), np.uint8)
        pointer = ctypes.cast(state.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
        if llama_cpp.llama_state_seq_get_data_ext(self._context, pointer, state.size, slot, flags) != state.size:
            raise EngineError("engine_failed", f"the state of slot {slot} could not be read")
        return state

    def _set_state(self, slot: int, state: np.ndarray, flags: int = 0) -> None:
        if not flags:
            llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)
        pointer = ctypes.cast(state.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
        if not llama_cpp.llama_state_seq_set_data_ext(self._context, pointer, state.size, slot, flags):
            llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)
            raise EngineError("engine_failed", f"a saved state could not be put into slot {slot}")

    def decode(self, rows: Iterable[Row]) -> np.ndarray:
        """Compute one batch. Returns float32 [all outputs, vocabulary], in the order of ``rows``: a
        writable view of llama.cpp's own buffer, good until the next call.

        Raises `KvFull`, or `EngineError` (``engine_failed``), after which what the slots hold is unknown.
        """
        size = outputs = 0
        for slot, start, tokens, wanted in rows:
            end = size + len(tokens)
            self._token[size:end] = tokens
            self._position[size:end] = range(start, start + len(tokens)) if len(tokens) > 1 else start
            self._slot[size:end] = slot
            self._wants_logits[size:end] = 0
            if wanted:
                self._wants_logits[end - wanted : end] = 1
                outputs += wanted
            size = end
        self._batch.n_tokens = size
        status = llama_cpp.llama_decode(self._context, self._batch)
        if status == 1:
            raise KvFull
        if status != 0:
            raise EngineError("engine_failed", f"llama_decode answered {status}: {log.reason()}")
        if not outputs:
            return np.empty((0, self.vocabulary), np.float32)
        logits = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, (outputs, self.vocabulary))

    def close_context(self) -> None:
        if self._context:
            llama_cpp.llama_free(self._context)
            self._context = None

    def close(self) -> None:
        """Everything else that uses the model was closed before."""
        self.close_context()
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


def free_bytes(device: str) -> int:
    """Memory that can still be had on ``device``; 0 where it cannot be told."""
    if device == "cpu":
        try:
            import psutil
        except ImportError:
            return 0
        return psutil.virtual_memory().available
    sampler = hardware.Sampler()
    gpus = {f"cuda:{gpu.index}": gpu for gpu in sampler.read().gpus}
    sampler.close()
    gpu = gpus.get(device)
    if gpu is None or gpu.memory_total_bytes is None or gpu.memory_used_bytes is None:
        return 0
    return gpu.memory_total_bytes - gpu.memory_used_bytes


def resident_bytes() -> int:
    """Resident memory of this process; 0 where it cannot be read."""
    try:
        import psutil
    except ImportError:
        return 0
    return psutil.Process().memory_info().rss


def _load_model(path: str, device: str, settings: Settings) -> Any:
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
        params.n_gpu_layers = settings.gpu_layers
        params.split_mode = _SPLIT_MODES[settings.split_mode]
        params.main_gpu = int(index) if settings.main_gpu < 0 else settings.main_gpu
        if settings.tensor_split:
            most = llama_cpp.llama_max_devices()
            shares = (*settings.tensor_split, *[0.0] * most)[:most]
            split = (ctypes.c_float * most)(*shares)
            params.tensor_split = ctypes.cast(split, ctypes.POINTER(ctypes.c_float))
    model = llama_cpp.llama_model_load_from_file(os.fsencode(file), params)
    if model:
        return model
    reason = log.reason()
    if "main_gpu" in reason:
        raise EngineError("device_unavailable", f"{device} is not there: {reason}")
    if log.about_memory():
        raise EngineError("out_of_memory", f"not enough memory to load {file.name}: {reason}")
    raise EngineError("bad_model", f"llama.cpp cannot load {file.name}: {reason}", hint="Pull or convert it again.")


def _string(function: object, *arguments: object) -> str:
    buffer = ctypes.create_string_buffer(512)
    function(*arguments, buffer, len(buffer))  # type: ignore[operator]
    return buffer.value.decode("utf-8", "replace")

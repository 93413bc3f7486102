"""Embeddings and reranking scores: a context of its own beside the one that writes text, over the same weights."""

import ctypes
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp._ctypes_extensions import load_shared_library

from engines.engine import EngineError
from engines.llamacpp import log
from engines.llamacpp.runner import Runner
from engines.protocol import Embed, Embedded, Rank, Rejected

#: llama.cpp's numbers (``<architecture>.pooling_type``) for the names that clients know.
POOLINGS = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}
_NAMES = {str(number): name for name, number in POOLINGS.items()}
#: Sequences of one batch at most.
_SEQUENCES = 64
#: Recurrent models hold a state for each sequence that there may be.
_RECURRENT_SEQUENCES = 8
#: Tokens computed at once, where no longer input must be.
_STEP_TOKENS = 512
#: llama.cpp allocates a row of the vocabulary for each token of an embedding batch, whether or not it is looked at:
#: floats of that buffer, 256 MB.
_VOCABULARY_ROWS = 1 << 26


def _stop_callback() -> Any:
    """A callback for llama.cpp's graphs that ends them at the embeddings, or None where ggml cannot be asked for names.

    An embedding context also computes the distribution of the token after each token, which nobody looks at: more than
    half of the work where the vocabulary is large.
    """
    try:
        folder = Path(llama_cpp.__file__).parent / "lib"
        ggml_name = load_shared_library("ggml-base", folder).ggml_get_name
    except (OSError, RuntimeError, AttributeError):
        return None
    ggml_name.argtypes, ggml_name.restype = [ctypes.c_void_p], ctypes.c_char_p

    def observe(tensor: int, ask: bool, _: int) -> bool:
        return ask and ggml_name(tensor) == b"result_embd_pooled"

    return llama_cpp.ggml_backend_sched_eval_callback(observe)


#: Lives as long as any context that calls it.
_STOP = _stop_callback()


def purpose(runner: Runner) -> str:
    """What the model of ``runner`` was made for: ``generate``, ``embed`` or ``rank``. The file's header decides:
    ``pooling_type`` names a pooling, or attention looks both ways (BERT and its kin, which write no text).

    Raises `EngineError` (``bad_model``): encoder-decoder models and diffusion models, which are not served.
    """
    pooling = _NAMES.get(runner.metadata(f"{runner.architecture}.pooling_type"), "none")
    if pooling != "none":
        return "rank" if pooling == "rank" else "embed"
    model = runner.model
    encodes, decodes = llama_cpp.llama_model_has_encoder(model), llama_cpp.llama_model_has_decoder(model)
    if llama_cpp.llama_model_is_diffusion(model) or (encodes and decodes):
        raise EngineError("bad_model", f"models of the family {runner.architecture} are not served")
    both_ways = encodes or runner.metadata(f"{runner.architecture}.attention.causal") == "false"
    return "embed" if both_ways else "generate"


def pack(lengths: Sequence[int], tokens: int, sequences: int) -> list[list[int]]:
    """Indices of inputs in as few batches as first-fit decreasing finds: each of at most ``sequences`` inputs and
    ``tokens`` tokens, but an input that is longer has a batch for itself. Pure."""
    batches: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for i, free in enumerate(room):
            if lengths[index] <= free and len(batches[i]) < sequences:
                batches[i].append(index)
                room[i] -= lengths[index]
                break
        else:
            batches.append([index])
            room.append(tokens - lengths[index])
    return batches


class Embedder:
    """Embeds or ranks with the model of ``runner``, whose weights it shares. Belongs to the runner's thread; close it
    before the runner.

    ``context_tokens`` is the longest input, at most what the model was trained on. ``pooling`` overrides what the
    file says; a language model whose file says nothing is pooled by the mean of its tokens (llama-server refuses to
    embed with it). Memory is allocated at the first use (or by `open`), for 512 tokens at once (fewer with a large
    vocabulary), and grows when a longer input comes that cannot be computed in pieces.

    A causal model is computed in pieces of that size and its token embeddings are pooled here. Where attention looks
    both ways a whole input has to be in one piece, and llama.cpp pools.
    """

    def __init__(self, runner: Runner, context_tokens: int, threads: int, on_gpu: bool, pooling: str = ""):
        said = _NAMES.get(runner.metadata(f"{runner.architecture}.pooling_type"), "none")
        self.pooling = pooling or (said if said != "none" else "mean")
        if self.pooling not in POOLINGS or self.pooling == "none":
            raise EngineError("bad_setting", f"pooling must be mean, cls, last or rank, not {pooling}")
        self._runner = runner
        self._threads, self._on_gpu = threads, on_gpu
        self.context_tokens = min(context_tokens, runner.trained_context or context_tokens)
        self.width: int = llama_cpp.llama_model_n_embd_out(runner.model)
        recurrent = not runner.can_cut
        self._sequences = _RECURRENT_SEQUENCES if recurrent else _SEQUENCES
        step = max(self._sequences, min(_STEP_TOKENS, _VOCABULARY_ROWS // runner.vocabulary))
        self._step = step - step % self._sequences
        self._context: Any = None
        self._cells = 0
        self._in_pieces: bool | None = None
        self._compute = (
            llama_cpp.llama_encode if llama_cpp.llama_model_has_encoder(runner.model) else llama_cpp.llama_decode
        )

    def open(self) -> None:
        """Allocate the memory and run the model once, so that the first request need not wait for it.

        Raises `EngineError` (``out_of_memory``, ``engine_failed``).
        """
        token = max(llama_cpp.llama_vocab_bos(self._runner.vocab), 0)
        self._pooled([[token]])

    def close(self) -> None:
        if self._context:
            llama_cpp.llama_free(self._context)
            self._context = None
            self._cells = 0

    def embed(self, inputs: Sequence[Sequence[int]]) -> np.ndarray:
        """Embeddings of token sequences that `check` let pass: float32 [inputs, width], of Euclidean length 1.

        Raises `EngineError` (``out_of_memory``, ``engine_failed``).
        """
        pooled = self._pooled(inputs)
        length = np.linalg.norm(pooled, axis=1, keepdims=True)
        return pooled / np.where(length > 0, length, 1)

    def rank(self, query: str, documents: Sequence[str]) -> np.ndarray:
        """How well each document answers ``query``, as the model's head says it: float32 [documents]. Larger is
        better; whether it is a logit or a probability is the model's affair. Raises `EngineError`."""
        pairs = self.pairs(query, documents)
        self.check(pairs, "documents")
        return self.score(pairs)

    def score(self, pairs: Sequence[Sequence[int]]) -> np.ndarray:
        """Scores of `pairs` that `check` let pass: float32 [pairs]. Raises `EngineError`."""
        return self._pooled(pairs)[:, 0]

    def pairs(self, query: str, documents: Sequence[str]) -> list[list[int]]:
        """The tokens that a reranker reads for each document: the file's ``rerank`` template filled in, or ``BOS query
        EOS SEP document EOS`` of the special tokens that the vocabulary adds, as llama-server does."""
        template = llama_cpp.llama_model_chat_template(self._runner.model, b"rerank")
        tokenize = self._runner.tokenize
        if template:
            text = template.decode("utf-8", "replace")
            filled = (text.replace("{query}", query).replace("{document}", document) for document in documents)
            return [tokenize(prompt, add_special=False) for prompt in filled]
        vocab = self._runner.vocab
        eos, sep = llama_cpp.llama_vocab_eos(vocab), llama_cpp.llama_vocab_sep(vocab)
        begin = [llama_cpp.llama_vocab_bos(vocab)] if llama_cpp.llama_vocab_get_add_bos(vocab) else []
        end = [eos if eos >= 0 else sep] if llama_cpp.llama_vocab_get_add_eos(vocab) else []
        middle = end + ([sep] if llama_cpp.llama_vocab_get_add_sep(vocab) else [])
        first = begin + tokenize(query, add_special=False, parse_special=False) + middle
        return [first + tokenize(d, add_special=False, parse_special=False) + end for d in documents]

    def check(self, inputs: Sequence[Sequence[int]], field: str = "input") -> None:
        """Refuse what cannot be computed; nothing is ever cut. ``field`` names what ``inputs`` came from.

        Raises `EngineError` (``invalid_input``, ``context_exceeded``) about ``field[i]``.
        """
        vocabulary = self._runner.vocabulary
        for i, tokens in enumerate(inputs):
            name = f"{field}[{i}]"
            if not tokens:
                raise EngineError("invalid_input", f"{name} is empty", field=name)
            if not 0 <= min(tokens) <= max(tokens) < vocabulary:
                raise EngineError("invalid_input", f"a token of {name} is not in 0…{vocabulary - 1}", field=name)
            if len(tokens) > self.context_tokens:
                raise EngineError(
                    "context_exceeded",
                    f"{name} has {len(tokens)} tokens; the context is {self.context_tokens}",
                    hint="Split the text, or deploy with a larger context_tokens if the model has one.",
                    field=name,
                )

    def answer(self, requests: Sequence[Embed | Rank]) -> list[tuple[Embedded | Rejected, np.ndarray]]:
        """All ``requests`` computed together; see `engines.engine.TokenEngine.embed`."""
        started = time.perf_counter_ns()
        inputs: list[list[list[int]]] = []
        failures: dict[int, EngineError] = {}
        for i, request in enumerate(requests):
            inputs.append([])
            try:
                inputs[i] = self._read(request)
            except EngineError as error:
                failures[i] = error
        together = [tokens for group in inputs for tokens in group]
        rows = np.empty((0, 1), np.float32)
        try:
            if together:
                rows = self.score(together)[:, None] if self.pooling == "rank" else self.embed(together)
        except EngineError as error:
            failures = {i: failures.get(i, error) for i in range(len(requests))}
        compute_us = (time.perf_counter_ns() - started) // 1000
        answers: list[tuple[Embedded | Rejected, np.ndarray]] = []
        start = 0
        for i, (request, group) in enumerate(zip(requests, inputs, strict=True)):
            if i in failures:
                answers.append((_rejection(request.id, failures[i]), np.empty((0, 0), np.float32)))
                continue
            part = rows[start : start + len(group)]
            start += len(group)
            answers.append((Embedded(request.id, [len(t) for t in group], part.shape[1], compute_us), part))
        return answers

    def _read(self, request: Embed | Rank) -> list[list[int]]:
        """The token sequences that ``request`` asks about, checked."""
        if isinstance(request, Rank):
            if self.pooling != "rank":
                raise EngineError(
                    "invalid_input", "this model ranks nothing", hint="Deploy a reranking model.", field="model"
                )
            tokens, field = self.pairs(request.query, request.documents), "documents"
        else:
            if self.pooling == "rank":
                raise EngineError("invalid_input", "this model ranks documents; it gives no embeddings", field="model")
            # Nothing but the special tokens of its beginning would look like something.
            texts = [
                self._runner.tokenize(given) if isinstance(given, str) and given else given for given in request.inputs
            ]
            tokens, field = [[] if isinstance(given, str) else given for given in texts], "input"
        self.check(tokens, field)
        return tokens

    # --- the context ----------------------------------------------------------------------------------------

    def _pooled(self, inputs: Sequence[Sequence[int]]) -> np.ndarray:
        """What llama.cpp's pooling gives for each input, float32 [inputs, width or outputs of the head]."""
        self._reserve(max(map(len, inputs), default=0))
        outputs = llama_cpp.llama_model_n_cls_out(self._runner.model) if self.pooling == "rank" else self.width
        pooled = np.zeros((len(inputs), max(1, outputs)), np.float32)
        for batch in pack([len(tokens) for tokens in inputs], self._step, self._sequences):
            pooled[batch] = self._batch([inputs[index] for index in batch], pooled.shape[1])
        if not np.isfinite(pooled).all():
            raise EngineError("engine_failed", "the model's output is not a number")
        return pooled

    def _batch(self, inputs: Sequence[Sequence[int]], outputs: int) -> np.ndarray:
        """Pooled outputs of inputs that fit together: float32 [inputs, outputs]. Clears the memory first."""
        memory = llama_cpp.llama_get_memory(self._context)
        if memory:
            llama_cpp.llama_memory_clear(memory, False)
        lengths = np.array([len(tokens) for tokens in inputs])
        token = np.concatenate([np.asarray(tokens, np.int32) for tokens in inputs])
        position = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        slot = np.repeat(np.arange(len(inputs), dtype=np.int32), lengths)
        pooled = np.zeros((len(inputs), outputs), np.float32)
        step = self._step if self._in_pieces else len(token)
        for start in range(0, len(token), step):
            piece = np.s_[start : start + step]
            self._run(token[piece], position[piece], slot[piece])
            if self._in_pieces and self.pooling != "rank":
                rows = llama_cpp.llama_get_embeddings(self._context)
                of_tokens = np.ctypeslib.as_array(rows, (len(token[piece]), outputs))
                self._pool(pooled, of_tokens, position[piece], slot[piece], lengths)
                continue
            for s in np.unique(slot[piece]):
                row = llama_cpp.llama_get_embeddings_seq(self._context, int(s))
                pooled[s] = np.ctypeslib.as_array(row, (outputs,))
        return pooled

    def _pool(
        self, pooled: np.ndarray, rows: np.ndarray, position: np.ndarray, slot: np.ndarray, lengths: np.ndarray
    ) -> None:
        """Add what the tokens of one piece, float32 [tokens, width], are to their inputs' embeddings."""
        if self.pooling == "mean":
            np.add.at(pooled, slot, rows / lengths[slot, None].astype(np.float32))
        else:
            wanted = position == (0 if self.pooling == "cls" else lengths[slot] - 1)
            pooled[slot[wanted]] = rows[wanted]

    def _run(self, token: np.ndarray, position: np.ndarray, slot: np.ndarray) -> None:
        def pointer(array: np.ndarray, kind: Any) -> Any:
            return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))

        count = len(token)
        one, wanted = np.ones(count, np.int32), np.ones(count, np.int8)
        slots = (slot.ctypes.data + np.arange(count) * slot.itemsize).astype(np.uintp)
        batch = llama_cpp.llama_batch(
            count,
            pointer(token, ctypes.c_int32),
            None,
            pointer(position, ctypes.c_int32),
            pointer(one, ctypes.c_int32),
            pointer(slots, ctypes.POINTER(ctypes.c_int32)),
            pointer(wanted, ctypes.c_int8),
        )
        log.clear()
        if status := self._compute(self._context, batch):
            code = "out_of_memory" if log.about_memory() else "engine_failed"
            raise EngineError(code, f"llama.cpp answered {status} to a batch of {count} tokens: {log.reason()}")

    def _reserve(self, longest: int) -> None:
        """Have a context that takes an input of ``longest`` tokens."""
        if self._in_pieces is None:
            self._open(self._sequences, POOLINGS[self.pooling])
            memory = llama_cpp.llama_get_memory(self._context)
            self._in_pieces = bool(memory) and llama_cpp.llama_get_causal_attn(self._context)
            self.close()
        cells = self._step
        if longest > cells:
            cells = max(longest, min(1 << (longest - 1).bit_length(), self.context_tokens))
            # llama.cpp plans its buffers for equal shares of a batch, and aborts where there are none.
            cells += -cells % self._sequences
        if cells > self._cells:
            self.close()
            native = not self._in_pieces or self.pooling == "rank"
            self._open(cells, POOLINGS[self.pooling] if native else POOLINGS["none"])

    def _open(self, cells: int, pooling: int) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = cells
        # Every token of an embedding batch is an output, so pieces also bound the buffer of the outputs.
        params.n_batch = params.n_ubatch = min(cells, self._step) if self._in_pieces else cells
        params.n_seq_max = self._sequences
        params.n_threads = params.n_threads_batch = self._threads
        params.kv_unified = True
        params.swa_full = False
        params.embeddings = True
        params.pooling_type = pooling
        params.offload_kqv = params.op_offload = self._on_gpu
        # Where sentence-transformers' dense layers follow the pooling, they come last.
        dense = self._runner.metadata(f"{self._runner.architecture}.dense_2_feat_in")
        if pooling == POOLINGS["none"] and _STOP is not None and not dense:
            params.cb_eval = _STOP
        log.clear()
        self._context = llama_cpp.llama_init_from_model(self._runner.model, params)
        if not self._context:
            raise EngineError(
                "out_of_memory" if log.about_memory() else "engine_failed",
                f"no context for embedding {cells} tokens at once: {log.reason()}",
                hint="Lower context_tokens.",
            )
        self._cells = cells


def _rejection(request_id: int, error: EngineError) -> Rejected:
    return Rejected(request_id, error.code, error.message, error.field, error.hint)

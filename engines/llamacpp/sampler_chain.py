"""llama.cpp's own samplers, for what is asked for too rarely to be written twice.

The calls into llama.cpp for sampling are all here (`engines.llamacpp.runner` has the others).
"""

import ctypes
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import llama_cpp
import numpy as np

from engines.engine import EngineError
from engines.protocol import Sampling

#: llama.cpp's ``llama_token_data``.
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
#: Candidates that Mirostat 1 estimates its exponent from, as llama.cpp's own tools have it.
_MIROSTAT_M = 100

# A whole vocabulary of candidates is 3 MB, and fresh pages cost more than the sampler: one buffer for all chains.
_scratch = np.empty(0, _CANDIDATE)


class SamplerChain:
    """``steps`` by llama-server's names, in order, then the draw. ``vocab``: llama.cpp's handle, which DRY's sequence
    breakers and infill read. ``vocabulary`` and ``context_tokens`` are counts.

    Several chains belong to one thread. The native samplers are freed by `close`, or with the chain.
    """

    def __init__(
        self, sampling: Sampling, steps: Sequence[str], seed: int, vocab: Any, vocabulary: int, context_tokens: int
    ):
        self._chain: Any = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        self.close: Callable[[], object] = weakref.finalize(self, llama_cpp.llama_sampler_free, self._chain)
        for sampler in _samplers(sampling, steps, seed, vocab, vocabulary, context_tokens):
            llama_cpp.llama_sampler_chain_add(self._chain, sampler)

    def sample(self, logits: np.ndarray, ids: np.ndarray | None = None) -> int:
        """Index of the one of ``logits`` (float32 [n], not written to) that is drawn; the i-th is of token
        ``ids[i]``, or of token i."""
        global _scratch  # noqa: PLW0603
        if len(_scratch) < len(logits):
            _scratch = np.empty(len(logits), _CANDIDATE)
        buffer = _scratch[: len(logits)]
        buffer["id"] = np.arange(len(logits)) if ids is None else ids
        buffer["logit"] = logits
        data = ctypes.cast(buffer.ctypes.data, llama_cpp.llama_token_data_p)
        candidates = llama_cpp.llama_token_data_array(data, len(logits), -1, False)
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(candidates))
        if candidates.selected < 0:
            raise EngineError("engine_failed", "llama.cpp's samplers chose no token")
        token = int(candidates.data[candidates.selected].id)
        return token if ids is None else int(np.flatnonzero(ids == token)[0])

    def accept(self, tokens: Iterable[int]) -> None:
        """Tokens that the sequence went on by."""
        for token in tokens:
            llama_cpp.llama_sampler_accept(self._chain, token)


def _samplers(
    sampling: Sampling, steps: Sequence[str], seed: int, vocab: Any, vocabulary: int, context_tokens: int
) -> Iterable[Any]:
    def window(tokens: int) -> int:
        return context_tokens if tokens < 0 else min(tokens, context_tokens)

    def dry() -> Any:
        breakers = [b.encode() for b in sampling.dry_sequence_breakers if b] if vocab else []
        return llama_cpp.llama_sampler_init_dry(
            vocab,
            sampling.dry_multiplier,
            sampling.dry_base,
            sampling.dry_allowed_length,
            window(sampling.dry_penalty_last_n),
            (ctypes.c_char_p * len(breakers))(*breakers),
            len(breakers),
        )

    make: dict[str, Callable[[], Any]] = {
        "penalties": lambda: llama_cpp.llama_sampler_init_penalties(
            vocabulary,
            window(sampling.repeat_last_n),
            sampling.repeat_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
        ),
        "dry": dry,
        "top_n_sigma": lambda: llama_cpp.llama_sampler_init_top_n_sigma(sampling.top_n_sigma),
        "top_k": lambda: llama_cpp.llama_sampler_init_top_k(sampling.top_k),
        "typ_p": lambda: llama_cpp.llama_sampler_init_typical(sampling.typical_p, 0),
        "top_p": lambda: llama_cpp.llama_sampler_init_top_p(sampling.top_p, 0),
        "min_p": lambda: llama_cpp.llama_sampler_init_min_p(sampling.min_p, 0),
        "xtc": lambda: llama_cpp.llama_sampler_init_xtc(sampling.xtc_probability, sampling.xtc_threshold, 0, seed),
        "temperature": lambda: llama_cpp.llama_sampler_init_temp_ext(
            sampling.temperature, sampling.dynatemp_range, sampling.dynatemp_exponent
        ),
    }
    yield from (make[step]() for step in steps)
    if sampling.mirostat == 1:
        yield llama_cpp.llama_sampler_init_mirostat(
            vocabulary, seed, sampling.mirostat_tau, sampling.mirostat_eta, _MIROSTAT_M
        )
    elif sampling.mirostat == 2:
        yield llama_cpp.llama_sampler_init_mirostat_v2(seed, sampling.mirostat_tau, sampling.mirostat_eta)
    else:
        yield llama_cpp.llama_sampler_init_dist(seed)

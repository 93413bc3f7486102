"""The next token of one sequence, from one row of logits.

The chain is llama.cpp's, and with the same seed it draws the same tokens. What differs is the cost: llama.cpp first
copies the whole vocabulary (262,144 candidates for Gemma) into records. Here the steps that nearly every request uses
(logit bias, penalties, top-k, top-p, min-p, temperature, draw) are numpy on a few dozen candidates that a bound
leaves; the rarer ones are llama.cpp's own samplers (`engines.llamacpp.sampler_chain`), on as few candidates as are
sure to give the same result.
"""

import math
import os
from collections import Counter, deque
from typing import Any, Protocol

import numpy as np

from engines.engine import EngineError
from engines.llamacpp.sampler_chain import SamplerChain
from engines.protocol import Sampling

#: The usual order, by llama-server's names.
STEPS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
#: Those done here, where they come in this order and no others are wanted.
_CHEAP = ("penalties", "top_k", "top_p", "min_p", "temperature")
_ALIASES = {"typical_p": "typ_p", "typical": "typ_p", "typ": "typ_p", "temp": "temperature", "nucleus": "top_p"}
#: llama.cpp's word for "any seed".
_ANY_SEED = 0xFFFFFFFF


class Allowed(Protocol):
    """What a grammar lets come next (`engines.llamacpp.grammar.Constraint`)."""

    def allows(self, token: int) -> bool: ...

    def mask(self) -> np.ndarray | None:
        """uint32 [vocabulary / 32, rounded up]: bit ``i % 32`` of word ``i // 32`` is set where token ``i`` may
        come; None where every token may."""


def active_steps(sampling: Sampling) -> list[str]:
    """The steps that change anything, in order. Raises `EngineError` for one that does not exist."""
    on = {
        "penalties": sampling.repeat_last_n != 0
        and (sampling.repeat_penalty != 1.0 or sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0),
        "dry": sampling.dry_multiplier != 0.0 and sampling.dry_base >= 1.0 and sampling.dry_penalty_last_n != 0,
        "top_n_sigma": sampling.top_n_sigma > 0.0,
        "top_k": sampling.top_k > 0,
        "typ_p": sampling.typical_p < 1.0,
        "top_p": sampling.top_p < 1.0,
        "min_p": sampling.min_p > 0.0,
        "xtc": sampling.xtc_probability > 0.0 and sampling.xtc_threshold <= 0.5,
        "temperature": sampling.temperature != 1.0 or sampling.dynatemp_range > 0.0,
    }
    names = []
    for given in sampling.samplers or STEPS:
        name = given.lower().replace("-", "_")
        name = _ALIASES.get(name, name)
        if name not in on:
            raise EngineError(
                "invalid_input", f"there is no sampler {given!r}; there are {', '.join(STEPS)}", field="samplers"
            )
        names.append(name)
    if sampling.mirostat:
        names = ["penalties", "temperature"]
    return [name for name in names if on[name]]


def check(sampling: Sampling) -> None:
    """Raises `EngineError` for values that no sampler can work with."""
    for field in Sampling.__struct_fields__:
        value = getattr(sampling, field)
        if isinstance(value, float) and not math.isfinite(value):
            raise EngineError("invalid_input", f"{field} is not a finite number", field=field)
    if sampling.repeat_penalty <= 0.0:
        raise EngineError("invalid_input", "repeat_penalty must be greater than 0", field="repeat_penalty")
    if sampling.mirostat not in (0, 1, 2):
        raise EngineError("invalid_input", "mirostat is 0, 1 or 2", field="mirostat")
    if any(token < 0 or not bias < math.inf for token, bias in sampling.logit_bias):
        raise EngineError("invalid_input", "logit_bias holds a negative token or no number", field="logit_bias")


def top_candidates(row: np.ndarray, count: int) -> tuple[np.ndarray, np.float32]:
    """Ids of at least the ``count`` largest logits of ``row``, ascending, usually not many more; and the largest.

    The ``count``-th largest of the blocks' maxima is a lower bound for the ``count``-th largest logit, and only
    blocks that reach it need to be looked at. Raises `EngineError` as `_largest`.
    """
    size = 1 << ((len(row).bit_length() + 1) // 2)
    blocks = len(row) // size
    if count >= blocks:
        return np.arange(len(row)), _largest(row)[1]
    rest = row[blocks * size :]
    whole = row[: blocks * size].reshape(blocks, size)
    peaks = whole.max(axis=1)
    largest = _finite(peaks.max() if not len(rest) else np.maximum(peaks.max(), rest.max()))
    bound = np.partition(peaks, blocks - count)[blocks - count]
    chosen = np.flatnonzero(peaks >= bound)
    places = np.flatnonzero(whole[chosen].ravel() >= bound)  # in one dimension: half the time of two
    ids = chosen[places // size] * size + places % size
    return np.concatenate([ids, np.arange(blocks * size, len(row))]), largest


def allowed_ids(mask: np.ndarray) -> np.ndarray:
    """The tokens whose bit is set (`Allowed.mask`), ascending. Most words of a grammar's mask are 0: only the
    others are unpacked."""
    words = np.flatnonzero(mask)
    bits = np.unpackbits(mask[words].astype("<u4").view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
    word, bit = np.nonzero(bits)
    return words[word] * 32 + bit


def logprobs(row: np.ndarray, token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """Natural log-probabilities under the model's own distribution: of ``token``, and of the ``count`` likeliest
    tokens, descending. ``row``: float32 [vocabulary], as the model gave it; not written to.

    Raises `EngineError` (``engine_failed``) when the logits are not numbers.
    """
    largest = _largest(row)[1]
    total = float(largest) + math.log(np.exp(row - largest).sum(dtype=np.float64))
    ids, logits = _descending(row, top_candidates(row, count)[0]) if count > 0 else (np.empty(0, np.int64), row[:0])
    likeliest = [(int(i), float(x) - total) for i, x in zip(ids[:count], logits[:count], strict=True)]
    return float(row[token]) - total, likeliest


class Sampler:
    """``prompt`` fills the windows of the penalties and of DRY first. ``vocab``, llama.cpp's handle, is what DRY's
    sequence breakers are read by; ``context_tokens`` is the window of a penalty over "the whole context". A seed of
    None draws one. Not shared between sequences, so a sequence gives the same tokens whoever it is decoded with.

    Raises `EngineError` (``invalid_input``) for values that make no sense.
    """

    def __init__(self, sampling: Sampling, prompt: list[int], vocab: Any = None, context_tokens: int = 32_768):
        check(sampling)
        self._sampling = sampling
        self._vocab = vocab
        self._context_tokens = context_tokens
        steps = active_steps(sampling)
        self._penalised = steps[:1] == ["penalties"]
        self._window = context_tokens if sampling.repeat_last_n < 0 else sampling.repeat_last_n
        cheap = sampling.mirostat == 0 and sampling.dynatemp_range <= 0.0
        if cheap and steps == [step for step in _CHEAP if step in steps]:
            self._native_steps: list[str] | None = None
        else:
            self._native_steps = steps[1:] if self._penalised else steps
        # A step that `samplers` leaves out is off.
        self._top_k = sampling.top_k if "top_k" in steps else 0
        self._top_p = np.float32(sampling.top_p if "top_p" in steps else 1.0)
        self._min_p = np.float32(sampling.min_p if "min_p" in steps else 0.0)
        self._temperature = np.float32(sampling.temperature if "temperature" in steps else 1.0)
        self._chain: SamplerChain | None = None
        self._recent: deque[int] = deque()
        self._counts: Counter[int] = Counter()
        self._prompt = prompt if self._native_steps is not None else []
        self._seen = set(self._prompt)
        if self._penalised:
            for token in prompt[-self._window :]:
                self._remember(token)
        bias = sorted(sampling.logit_bias)
        self._bias_ids = np.array([token for token, _ in bias], np.int64)
        self._bias = np.array([value for _, value in bias], np.float32)
        self._greedy = self._native_steps is None and self._temperature <= 0.0
        seed = _ANY_SEED if sampling.seed is None else sampling.seed & 0xFFFFFFFF
        self._seed = int.from_bytes(os.urandom(4), "little") >> 1 if seed == _ANY_SEED else seed
        if self._native_steps is None and not self._greedy:
            # std::mt19937 and RandomState seed the same generator in the same way.
            self._bits = np.random.RandomState(self._seed)._bit_generator

    def sample(self, row: np.ndarray, banned: np.ndarray | None = None, allowed: Allowed | None = None) -> int:
        """Choose a token; ``row`` (float32 [vocabulary]) is written to. ``banned`` ids cannot be chosen, and where
        ``allowed`` is given, only what it allows.

        As in llama.cpp the grammar is asked about the token that was chosen without it, and only when it refuses is
        everything else that it refuses struck out and another one chosen. Without truncation (top-k, top-p, …) that
        is the distribution of the model among the allowed tokens: a token of probability p is taken at first with p,
        and after a refusal, which has probability 1 - a where a is that of all allowed ones, with p / a; together
        p / a. A truncation keeps its tokens before the grammar in the first draw, after it in the second.

        Raises `EngineError` (``engine_failed``) when the logits are not numbers, or no token is left.
        """
        if banned is not None:
            row[banned] = -np.inf
        if len(self._bias_ids):
            self._add_bias(row)
        if self._penalised:
            self._penalise(row)
        token = self._choose(row)
        if allowed is not None and not allowed.allows(token):
            mask = allowed.mask()
            token = token if mask is None else self._choose_allowed(row, mask)
        self._accept(token)
        return token

    def close(self) -> None:
        """Free llama.cpp's samplers, if any."""
        if self._chain is not None:
            self._chain.close()
            self._chain = None

    def _add_bias(self, row: np.ndarray) -> None:
        if self._bias_ids[-1] >= len(row):
            raise EngineError(
                "invalid_input", f"logit_bias names token {self._bias_ids[-1]} of {len(row)}", field="logit_bias"
            )
        np.add.at(row, self._bias_ids, self._bias)

    def _remember(self, token: int) -> None:
        self._recent.append(token)
        self._counts[token] += 1
        if len(self._recent) > self._window:
            oldest = self._recent.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]

    def _penalise(self, row: np.ndarray) -> None:
        sampling, counts = self._sampling, self._counts
        ids = np.fromiter(counts.keys(), np.int64, len(counts))
        times = np.fromiter(counts.values(), np.float32, len(counts))
        logits = row[ids]
        # Dividing a negative logit would make the token more likely.
        repeat = np.float32(sampling.repeat_penalty)
        logits = np.where(logits <= 0, logits * repeat, logits / repeat)
        row[ids] = logits - times * np.float32(sampling.frequency_penalty) - np.float32(sampling.presence_penalty)

    def _accept(self, token: int) -> None:
        if self._penalised:
            self._remember(token)
        if self._chain is not None:
            self._seen.add(token)
            self._chain.accept([token])

    def _choose_allowed(self, row: np.ndarray, mask: np.ndarray) -> int:
        if np.bitwise_count(mask).sum() > len(row) // 8:
            np.putmask(row, np.unpackbits(mask.view(np.uint8), bitorder="little")[: len(row)] == 0, -np.inf)
            return self._choose(row)
        ids = allowed_ids(mask)
        if not len(ids):
            raise EngineError("engine_failed", "the grammar lets no token come next")
        return int(ids[self._choose(row[ids], ids)])

    def _choose(self, logits: np.ndarray, ids: np.ndarray | None = None) -> int:
        """Index of one of ``logits``; the i-th is of token ``ids[i]``, or of token i."""
        if self._greedy:
            return _largest(logits)[0]
        if self._native_steps is not None:
            _largest(logits)
            return self._choose_natively(logits, ids)
        return self._draw(*self._candidates(logits))

    def _choose_natively(self, logits: np.ndarray, ids: np.ndarray | None) -> int:
        if self._chain is None:
            steps = self._native_steps or []
            arguments = self._seed, self._vocab, len(logits), self._context_tokens
            self._chain = SamplerChain(self._sampling, steps, *arguments)
            self._chain.accept(self._prompt[-self._context_tokens :])
            self._prompt = []
        kept = self._native_candidates(logits)
        if kept is None:
            return self._chain.sample(logits, ids)
        return int(kept[self._chain.sample(logits[kept], kept if ids is None else ids[kept])])

    def _native_candidates(self, logits: np.ndarray) -> np.ndarray | None:
        """Indices of all of ``logits`` that can matter, ascending; None: all of them. Before a top-k only DRY is
        harmless: it lowers single logits, and only of tokens that were seen."""
        match self._native_steps:
            case ["top_k", *_]:
                kept, _ = top_candidates(logits, self._top_k)
            case ["dry", "top_k", *_] if self._sampling.dry_multiplier > 0:
                kept, _ = top_candidates(logits, self._top_k + len(self._seen))
            case _:
                return np.flatnonzero(logits > -np.inf) if logits.min() == -np.inf else None
        # llama.cpp's typical-p and Mirostat compute 0 · log 0 of a token that is banned.
        return kept[logits[kept] > -np.inf]

    def _candidates(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(indices, logits) that top-k, top-p and min-p leave, in the order in which llama.cpp draws from them."""
        if self._top_k > 0:
            some, largest = top_candidates(row, self._top_k)
            ids, logits = _descending(row, some)
            ids, logits = ids[: self._top_k], logits[: self._top_k]
            total = np.exp(logits - largest).sum()
        elif self._top_p < 1.0:
            # The share of each token is of the whole vocabulary.
            largest = _largest(row)[1]
            ids, logits, total = self._nucleus_candidates(row, largest)
        else:
            largest = _largest(row)[1]
            ids = np.arange(len(row)) if self._min_p <= 0 else np.flatnonzero(row >= self._min_logit(largest))
            return ids, row[ids]
        if self._top_p < 1.0:
            reached = np.cumsum(np.exp(logits - largest) / total)
            count = int(np.searchsorted(reached, self._top_p)) + 1
            ids, logits = ids[:count], logits[:count]
        if self._min_p > 0.0:
            count = max(1, int(np.count_nonzero(logits >= self._min_logit(largest))))
            ids, logits = ids[:count], logits[:count]
        return ids, logits

    def _nucleus_candidates(self, row: np.ndarray, largest: np.float32) -> tuple[np.ndarray, np.ndarray, np.float32]:
        """As `_candidates`, those that top-p cannot do without; and the sum of all exp(logit - largest)."""
        shares = np.exp(row - largest)
        total = shares.sum()
        for least in (1e-2, 1e-4, 1e-6):
            ids = np.flatnonzero(shares >= least)
            if shares[ids].sum() > self._top_p * total:
                break
        else:
            ids = np.arange(len(row))
        return *_descending(row, ids), total

    def _min_logit(self, largest: np.float32) -> np.float32:
        return np.float32(largest + np.log(self._min_p))

    def _draw(self, ids: np.ndarray, logits: np.ndarray) -> int:
        low, high = (int(word) for word in self._bits.random_raw(2))
        uniform = (low + high * 2.0**32) / 2.0**64  # std::generate_canonical
        logits = logits / self._temperature
        reached = np.cumsum(np.exp(logits - logits.max()), dtype=np.float64)
        chosen = int(np.searchsorted(reached, uniform * reached[-1]))
        return int(ids[min(chosen, len(ids) - 1)])


def _largest(logits: np.ndarray) -> tuple[int, np.float32]:
    """(index, value). Raises `EngineError` (``engine_failed``)."""
    index = int(logits.argmax())
    return index, _finite(logits[index])


def _finite(largest: np.float32) -> np.float32:
    if not math.isfinite(largest):
        raise EngineError("engine_failed", "the model's output is not a number, or every token is banned")
    return largest


def _descending(row: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits = row[ids]
    order = np.argsort(-logits, kind="stable")
    return ids[order], logits[order]

"""The next token of one sequence, from one row of logits.

The chain is llama.cpp's: penalties, top-k, top-p, min-p, temperature, draw, and with the same seed it draws the
same tokens. What differs is the cost: llama.cpp first copies the whole vocabulary (262,144 candidates for Gemma)
into records; here a bound leaves a few dozen candidates, and only those are sorted.
"""

import os
from collections import Counter, deque

import numpy as np

from engines.engine import EngineError
from engines.protocol import Sampling

#: Tokens back from the end that the penalties look at (llama.cpp's ``repeat_last_n``).
PENALTY_WINDOW = 64


def top_candidates(row: np.ndarray, count: int) -> np.ndarray:
    """Ids of at least the ``count`` largest logits of ``row``, ascending; usually not many more.

    The ``count``-th largest of the blocks' maxima is a lower bound for the ``count``-th largest logit, and only
    blocks that reach it need to be looked at.
    """
    size = 1 << (len(row).bit_length() // 2)
    blocks = len(row) // size
    if count >= blocks:
        return np.arange(len(row))
    whole = row[: blocks * size].reshape(blocks, size)
    peaks = whole.max(axis=1)
    bound = np.partition(peaks, blocks - count)[blocks - count]
    chosen = np.flatnonzero(peaks >= bound)
    block, offset = np.nonzero(whole[chosen] >= bound)
    rest = np.arange(blocks * size, len(row))
    return np.concatenate([chosen[block] * size + offset, rest])


class Sampler:
    """``prompt`` fills the penalties' window first. ``seed`` None draws one. Not shared between sequences, so a
    sequence gives the same tokens whoever it is decoded with."""

    def __init__(self, sampling: Sampling, prompt: list[int]):
        self._sampling = sampling
        self._penalised = (
            sampling.repeat_penalty != 1.0 or sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        )
        self._recent: deque[int] = deque(prompt[-PENALTY_WINDOW:], PENALTY_WINDOW)
        self._greedy = sampling.temperature <= 0.0
        if not self._greedy:
            seed = int.from_bytes(os.urandom(4), "little") if sampling.seed is None else sampling.seed
            # std::mt19937 and RandomState seed the same generator in the same way.
            self._bits = np.random.RandomState(seed & 0xFFFFFFFF)._bit_generator

    def sample(self, row: np.ndarray, banned: np.ndarray | None = None) -> int:
        """Choose a token; ``row`` (float32 [vocabulary]) is written to. ``banned`` ids cannot be chosen.

        Raises `EngineError` (``engine_failed``) when the logits are not numbers.
        """
        if banned is not None:
            row[banned] = -np.inf
        if self._penalised:
            self._penalise(row)
        token = int(row.argmax())
        if not np.isfinite(row[token]):
            raise EngineError("engine_failed", "the model's output is not a number")
        if not self._greedy:
            token = self._draw(*self._candidates(row, row[token]))
        if self._penalised:
            self._recent.append(token)
        return token

    def _penalise(self, row: np.ndarray) -> None:
        sampling = self._sampling
        counts = Counter(self._recent)
        ids = np.fromiter(counts.keys(), np.int64, len(counts))
        times = np.fromiter(counts.values(), np.float32, len(counts))
        logits = row[ids]
        # Dividing a negative logit would make the token more likely.
        repeat = np.float32(sampling.repeat_penalty)
        logits = np.where(logits <= 0, logits * repeat, logits / repeat)
        row[ids] = logits - times * np.float32(sampling.frequency_penalty) - np.float32(sampling.presence_penalty)

    def _candidates(self, row: np.ndarray, largest: np.float32) -> tuple[np.ndarray, np.ndarray]:
        """(ids, logits) that top-k, top-p and min-p leave, in the order in which llama.cpp draws from them."""
        sampling = self._sampling
        if sampling.top_k > 0:
            ids, logits = _descending(row, top_candidates(row, sampling.top_k))
            ids, logits = ids[: sampling.top_k], logits[: sampling.top_k]
            total = np.exp(logits - largest).sum()
        elif sampling.top_p < 1.0:
            # The share of each token is of the whole vocabulary.
            total = np.exp(row - largest).sum()
            ids, logits = self._nucleus_candidates(row, largest, total)
        else:
            ids = np.arange(len(row)) if sampling.min_p <= 0 else np.flatnonzero(row >= self._min_logit(largest))
            return ids, row[ids]
        if sampling.top_p < 1.0:
            reached = np.cumsum(np.exp(logits - largest) / total)
            count = int(np.searchsorted(reached, np.float32(sampling.top_p))) + 1
            ids, logits = ids[:count], logits[:count]
        if sampling.min_p > 0.0:
            count = max(1, int(np.count_nonzero(logits >= self._min_logit(largest))))
            ids, logits = ids[:count], logits[:count]
        return ids, logits

    def _nucleus_candidates(
        self, row: np.ndarray, largest: np.float32, total: np.float32
    ) -> tuple[np.ndarray, np.ndarray]:
        count = 256
        while True:
            ids, logits = _descending(row, top_candidates(row, count))
            if len(ids) == len(row) or (np.exp(logits[:count] - largest) / total).sum() >= self._sampling.top_p:
                return ids, logits
            count *= 16

    def _min_logit(self, largest: np.float32) -> np.float32:
        return np.float32(largest + np.log(np.float32(self._sampling.min_p)))

    def _draw(self, ids: np.ndarray, logits: np.ndarray) -> int:
        low, high = (int(word) for word in self._bits.random_raw(2))
        uniform = (low + high * 2.0**32) / 2.0**64  # std::generate_canonical
        logits = logits / np.float32(self._sampling.temperature)
        reached = np.cumsum(np.exp(logits - logits.max()), dtype=np.float64)
        chosen = int(np.searchsorted(reached, uniform * reached[-1]))
        return int(ids[min(chosen, len(ids) - 1)])


def _descending(row: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits = row[ids]
    order = np.argsort(-logits, kind="stable")
    return ids[order], logits[order]

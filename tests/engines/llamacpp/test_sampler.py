"""The sampler against llama.cpp's own chain: the same tokens from the same logits and seed."""

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.engine import EngineError
from engines.llamacpp.sampler import Sampler, top_candidates
from engines.protocol import Sampling

llama_cpp = pytest.importorskip("llama_cpp")


class LlamaChain:
    """llama.cpp's samplers in the order that `Sampling` documents."""

    def __init__(self, sampling: Sampling, prompt: list[int], vocabulary: int):
        self.chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        self.size = vocabulary
        for sampler in (
            llama_cpp.llama_sampler_init_penalties(
                vocabulary,
                sampling.repeat_last_n,
                sampling.repeat_penalty,
                sampling.frequency_penalty,
                sampling.presence_penalty,
            ),
            llama_cpp.llama_sampler_init_top_k(sampling.top_k),
            llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1),
            llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1),
            llama_cpp.llama_sampler_init_temp(sampling.temperature),
            llama_cpp.llama_sampler_init_dist(sampling.seed or 0),
        ):
            llama_cpp.llama_sampler_chain_add(self.chain, sampler)
        for token in prompt:
            llama_cpp.llama_sampler_accept(self.chain, token)

    def sample(self, row: np.ndarray) -> int:
        data = (llama_cpp.llama_token_data * self.size)(*((i, float(x), 0.0) for i, x in enumerate(row)))
        candidates = llama_cpp.llama_token_data_array(data, self.size, -1, False)
        llama_cpp.llama_sampler_apply(self.chain, ctypes.byref(candidates))
        token = candidates.data[candidates.selected].id
        llama_cpp.llama_sampler_accept(self.chain, token)
        return token

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self.chain)


def rows(count: int, vocabulary: int, scale: float = 2.0) -> list[np.ndarray]:
    generator = np.random.default_rng(5)
    # A permutation of distinct values: which of two equal logits comes first is nobody's promise.
    return [
        generator.permutation(np.sort(generator.standard_normal(vocabulary)).astype(np.float32) * np.float32(scale))
        for _ in range(count)
    ]


CHAINS = {
    "defaults": Sampling(seed=1),
    "seed": Sampling(seed=4_000_000_000),
    "greedy": Sampling(temperature=0.0, seed=1),
    "hot": Sampling(temperature=2.5, seed=2),
    "top_k": Sampling(top_k=7, top_p=1.0, min_p=0.0, seed=3),
    "top_k_1": Sampling(top_k=1, seed=3),
    "top_p": Sampling(top_k=0, top_p=0.6, min_p=0.0, seed=4),
    "min_p": Sampling(top_k=0, top_p=1.0, min_p=0.1, seed=5),
    "nothing": Sampling(top_k=0, top_p=1.0, min_p=0.0, temperature=1.0, seed=6),
    "top_p_and_min_p": Sampling(top_k=0, top_p=0.9, min_p=0.02, seed=7),
    "repeat": Sampling(repeat_penalty=1.4, seed=8),
    "presence_and_frequency": Sampling(presence_penalty=0.7, frequency_penalty=0.3, seed=9),
    "greedy_with_penalties": Sampling(temperature=0.0, repeat_penalty=1.8, presence_penalty=0.5, seed=10),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("vocabulary", [50, 1300])
def test_draws_what_llama_cpp_draws(name: str, vocabulary: int) -> None:
    sampling, prompt = CHAINS[name], [3, 1, 4, 1, 5, 9, 2, 6] * 12
    ours, theirs = Sampler(sampling, prompt), LlamaChain(sampling, prompt, vocabulary)
    tokens = [(ours.sample(row.copy()), theirs.sample(row)) for row in rows(60, vocabulary)]
    theirs.close()
    assert [a for a, _ in tokens] == [b for _, b in tokens]
    assert len(set(tokens)) > 3


def test_draws_what_llama_cpp_draws_from_a_large_vocabulary() -> None:
    sampling = Sampling(seed=11, top_k=40)
    ours, theirs = Sampler(sampling, []), LlamaChain(sampling, [], 40_000)
    for row in rows(5, 40_000, scale=4.0):
        assert ours.sample(row.copy()) == theirs.sample(row)
    theirs.close()


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 80), st.integers(1, 40_000), st.booleans())
def test_candidates_hold_the_largest(seed: int, count: int, vocabulary: int, ties: bool) -> None:
    row = np.random.default_rng(seed).standard_normal(vocabulary).astype(np.float32)
    if ties:
        row = np.round(row)
    ids = top_candidates(row, count)
    assert len(set(ids)) == len(ids)
    assert np.all(np.diff(ids) > 0)
    largest = np.sort(row)[::-1][:count]
    assert np.array_equal(np.sort(row[ids])[::-1][:count], largest)


def test_banned_tokens_are_never_drawn() -> None:
    row = np.zeros(1000, np.float32)
    row[7] = 50.0
    for sampling in (Sampling(temperature=0.0), Sampling(seed=1), Sampling(seed=1, top_k=0, top_p=1.0, min_p=0.0)):
        assert Sampler(sampling, []).sample(row.copy()) == 7
        assert Sampler(sampling, []).sample(row.copy(), np.array([7])) != 7


def test_without_a_seed_two_sequences_differ() -> None:
    flat = np.zeros(1000, np.float32)
    sampling = Sampling(top_k=0, top_p=1.0, min_p=0.0)
    first, second = Sampler(sampling, []), Sampler(sampling, [])
    assert [first.sample(flat.copy()) for _ in range(20)] != [second.sample(flat.copy()) for _ in range(20)]


@pytest.mark.parametrize("broken", [np.nan, -np.inf, np.inf])
def test_logits_that_are_no_numbers_are_an_error(broken: float) -> None:
    with pytest.raises(EngineError) as caught:
        Sampler(Sampling(seed=1), []).sample(np.full(1000, broken, np.float32))
    assert caught.value.code == "engine_failed"

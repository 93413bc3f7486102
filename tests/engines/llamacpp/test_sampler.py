"""The sampler against llama.cpp's own chain: the same tokens from the same logits and seed."""

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.engine import EngineError
from engines.llamacpp.sampler import STEPS, Sampler, allowed_ids, logprobs, top_candidates
from engines.protocol import Sampling

llama_cpp = pytest.importorskip("llama_cpp")


#: What "the whole context" is here, tokens.
WINDOW = 500


class LlamaChain:
    """llama.cpp's samplers in the order that `Sampling` documents, on the whole vocabulary."""

    def __init__(self, sampling: Sampling, prompt: list[int], vocabulary: int):
        self.chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        self.size = vocabulary
        bias = (llama_cpp.llama_logit_bias * len(sampling.logit_bias))(*sampling.logit_bias)
        self._add(llama_cpp.llama_sampler_init_logit_bias(vocabulary, len(bias), bias))
        seed = sampling.seed or 0
        make = {
            "penalties": lambda: llama_cpp.llama_sampler_init_penalties(
                vocabulary,
                WINDOW if sampling.repeat_last_n < 0 else sampling.repeat_last_n,
                sampling.repeat_penalty,
                sampling.frequency_penalty,
                sampling.presence_penalty,
            ),
            "dry": lambda: llama_cpp.llama_sampler_init_dry(
                None, sampling.dry_multiplier, sampling.dry_base, sampling.dry_allowed_length, WINDOW, None, 0
            ),
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
        if sampling.mirostat:
            self._add(make["penalties"]())
            self._add(llama_cpp.llama_sampler_init_temp(sampling.temperature))
        else:
            for step in sampling.samplers or STEPS:
                self._add(make[step]())
        if sampling.mirostat == 1:
            numbers = sampling.mirostat_tau, sampling.mirostat_eta
            self._add(llama_cpp.llama_sampler_init_mirostat(vocabulary, seed, *numbers, 100))
        elif sampling.mirostat == 2:
            self._add(llama_cpp.llama_sampler_init_mirostat_v2(seed, sampling.mirostat_tau, sampling.mirostat_eta))
        else:
            self._add(llama_cpp.llama_sampler_init_dist(seed))
        for token in prompt:
            llama_cpp.llama_sampler_accept(self.chain, token)

    def _add(self, sampler: object) -> None:
        llama_cpp.llama_sampler_chain_add(self.chain, sampler)

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
    "short_window": Sampling(repeat_penalty=1.6, repeat_last_n=3, seed=11),
    "whole_context": Sampling(repeat_penalty=1.3, frequency_penalty=0.1, repeat_last_n=-1, seed=12),
    "no_window": Sampling(repeat_penalty=1.6, repeat_last_n=0, seed=13),
    "bias": Sampling(logit_bias=[(3, 9.0), (7, -np.inf), (11, 5.5)], seed=14),
    "greedy_bias": Sampling(temperature=0.0, logit_bias=[(3, 3.0), (7, -np.inf)], seed=14),
    "dry": Sampling(dry_multiplier=2.0, dry_sequence_breakers=(), seed=15),
    "dry_without_top_k": Sampling(dry_multiplier=2.0, dry_sequence_breakers=(), top_k=0, seed=15),
    "dry_and_penalties": Sampling(dry_multiplier=2.0, dry_sequence_breakers=(), repeat_penalty=1.4, seed=15),
    "greedy_dry": Sampling(dry_multiplier=3.0, dry_sequence_breakers=(), temperature=0.0, seed=15),
    "top_n_sigma": Sampling(top_n_sigma=2.5, top_k=0, top_p=1.0, min_p=0.0, seed=16),
    "typical": Sampling(typical_p=0.7, seed=17),
    "typical_whole": Sampling(typical_p=0.7, top_k=0, top_p=1.0, min_p=0.0, seed=17),
    "typical_with_bans": Sampling(typical_p=0.7, top_k=0, logit_bias=[(3, 4.0)], seed=17),
    "xtc": Sampling(xtc_probability=0.6, xtc_threshold=0.05, temperature=0.6, seed=18),
    "dynamic_temperature": Sampling(dynatemp_range=0.6, dynatemp_exponent=1.5, seed=19),
    "mirostat_1": Sampling(mirostat=1, seed=20),
    "mirostat_2": Sampling(mirostat=2, mirostat_tau=3.0, seed=21),
    "mirostat_and_penalties": Sampling(mirostat=2, repeat_penalty=1.5, seed=21),
    "other_order": Sampling(samplers=["temperature", "top_k", "min_p"], temperature=1.7, seed=22),
    "cheap_order": Sampling(samplers=["top_k", "temperature"], top_k=20, temperature=1.7, seed=22),
    "without_temperature": Sampling(samplers=["top_p"], top_p=0.5, temperature=0.0, seed=23),
    "penalties_last": Sampling(samplers=["top_k", "penalties", "temperature"], repeat_penalty=1.9, seed=24),
    "everything": Sampling(
        repeat_penalty=1.2,
        dry_multiplier=1.0,
        dry_sequence_breakers=(),
        top_n_sigma=3.0,
        xtc_probability=0.3,
        dynatemp_range=0.3,
        seed=25,
    ),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("vocabulary", [50, 1300])
def test_draws_what_llama_cpp_draws(name: str, vocabulary: int) -> None:
    sampling, prompt = CHAINS[name], [3, 1, 4, 1, 5, 9, 2, 6] * 12
    ours = Sampler(sampling, prompt, context_tokens=WINDOW)
    theirs = LlamaChain(sampling, prompt, vocabulary)
    tokens = [(ours.sample(row.copy()), theirs.sample(row)) for row in rows(60, vocabulary)]
    theirs.close()
    ours.close()
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
    ids, top = top_candidates(row, count)
    assert top == row.max()
    assert len(set(ids)) == len(ids)
    assert np.all(np.diff(ids) > 0)
    largest = np.sort(row)[::-1][:count]
    assert np.array_equal(np.sort(row[ids])[::-1][:count], largest)


@pytest.mark.parametrize("vocabulary", [200, 40_000])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_a_number_is_no_candidate(vocabulary: int, wrong: float) -> None:
    row = np.zeros(vocabulary, np.float32)
    row[vocabulary - 3] = wrong
    with pytest.raises(EngineError, match="not a number"):
        top_candidates(row, 40)


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


def words(ids: list[int], vocabulary: int) -> np.ndarray:
    mask = np.zeros((vocabulary + 31) // 32, np.uint32)
    for token in ids:
        mask[token // 32] |= np.uint32(1 << token % 32)
    return mask


class Only:
    """Allows ``ids``; counts how often the mask was needed."""

    def __init__(self, ids: list[int], vocabulary: int):
        self.ids, self.words, self.masks = set(ids), words(ids, vocabulary), 0

    def allows(self, token: int) -> bool:
        return token in self.ids

    def mask(self) -> np.ndarray:
        self.masks += 1
        return self.words


@settings(deadline=None)
@given(st.sets(st.integers(0, 999)))
def test_the_ids_of_a_mask(ids: set[int]) -> None:
    assert list(allowed_ids(words(sorted(ids), 1000))) == sorted(ids)


@pytest.mark.parametrize("name", CHAINS)
def test_nothing_else_than_allowed(name: str) -> None:
    only = Only([3, 8, 31, 32, 63, 64, 999], 1000)
    sampler = Sampler(CHAINS[name], [1, 2, 3])
    for row in rows(30, 1000):
        assert only.allows(sampler.sample(row, allowed=only))
    sampler.close()


def test_the_mask_is_made_only_when_a_token_is_refused() -> None:
    row = np.zeros(100, np.float32)
    row[[5, 6]] = 20, 10
    only = Only([5], 100)
    assert Sampler(Sampling(temperature=0.0), []).sample(row.copy(), allowed=only) == 5
    assert only.masks == 0
    only = Only([6, 7], 100)
    assert Sampler(Sampling(temperature=0.0), []).sample(row.copy(), allowed=only) == 6
    assert only.masks == 1


def test_a_constraint_that_gives_no_mask_takes_the_token() -> None:
    class Asleep(Only):
        def mask(self) -> None:  # type: ignore[override]
            return None

    row = np.zeros(100, np.float32)
    row[5] = 20
    assert Sampler(Sampling(temperature=0.0), []).sample(row, allowed=Asleep([], 100)) == 5


def test_refusing_keeps_the_distribution_among_the_allowed() -> None:
    row = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    sampler = Sampler(Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=4), [])
    only = Only([1, 3], 4)
    draws = 20_000
    ones = sum(sampler.sample(row.copy(), allowed=only) == 1 for _ in range(draws))
    # 0.3 / (0.3 + 0.1), within four standard errors.
    assert abs(ones / draws - 0.75) < 4 * (0.75 * 0.25 / draws) ** 0.5


def test_no_token_left_is_an_error() -> None:
    for sampling in (Sampling(seed=1), Sampling(seed=1, xtc_probability=0.5)):
        with pytest.raises(EngineError) as caught:
            Sampler(sampling, []).sample(np.zeros(64, np.float32), allowed=Only([], 64))
        assert caught.value.code == "engine_failed"
        with pytest.raises(EngineError):
            Sampler(sampling, []).sample(np.zeros(64, np.float32), np.array([5]), Only([5], 64))


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (Sampling(samplers=["top_k", "best_k"]), "samplers"),
        (Sampling(temperature=float("nan")), "temperature"),
        (Sampling(repeat_penalty=0.0), "repeat_penalty"),
        (Sampling(mirostat=3), "mirostat"),
        (Sampling(logit_bias=[(-1, 1.0)]), "logit_bias"),
        (Sampling(logit_bias=[(1, float("nan"))]), "logit_bias"),
        (Sampling(logit_bias=[(1, float("inf"))]), "logit_bias"),
    ],
)
def test_values_without_sense_are_named(sampling: Sampling, field: str) -> None:
    with pytest.raises(EngineError) as caught:
        Sampler(sampling, [])
    assert (caught.value.code, caught.value.field) == ("invalid_input", field)


def test_a_bias_outside_the_vocabulary_is_named() -> None:
    with pytest.raises(EngineError) as caught:
        Sampler(Sampling(logit_bias=[(64, 1.0)]), []).sample(np.zeros(64, np.float32))
    assert caught.value.field == "logit_bias"


def test_names_of_samplers_have_aliases() -> None:
    row = rows(1, 500)[0]
    named = [
        Sampler(Sampling(samplers=names, top_k=5, typical_p=0.4, seed=1), []).sample(row.copy())
        for names in (["top_k", "typ_p", "temperature"], ["top-k", "typical_p", "temp"], ["TOP_K", "typ", "temp"])
    ]
    assert len(set(named)) == 1


def test_log_probabilities_are_of_the_model_itself() -> None:
    row = rows(1, 40_000, scale=4.0)[0]
    before = row.copy()
    logprob, likeliest = logprobs(row, 17, 5)
    exact = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
    order = np.argsort(-exact)[:5]
    assert logprob == pytest.approx(exact[17], abs=1e-5)
    assert [token for token, _ in likeliest] == list(order)
    assert [value for _, value in likeliest] == pytest.approx(list(exact[order]), abs=1e-5)
    assert np.array_equal(row, before)
    assert logprobs(row, 17, 0) == (logprob, [])
    assert len(logprobs(row[:3], 1, 20)[1]) == 3


def test_log_probabilities_of_no_numbers_are_an_error() -> None:
    with pytest.raises(EngineError):
        logprobs(np.full(100, np.nan, np.float32), 1, 2)


def test_native_samplers_are_freed_once() -> None:
    sampler = Sampler(Sampling(mirostat=2, seed=1), [])
    sampler.sample(np.zeros(64, np.float32))
    chain = sampler._chain
    assert chain is not None
    sampler.close()
    sampler.close()
    assert not chain.close.alive  # type: ignore[attr-defined]

"""Cost of choosing one token from a vocabulary of 262,144, against llama.cpp's whole chain.

    python benchmarks/sampling.py [--gguf FILE] [--rounds N] [--json FILE]

With ``--gguf`` the logits are a model's own, of a text that it continues; without, normal noise with a few likely
tokens, which is shaped like them. llama.cpp's chain works as its tools have it: the whole row copied into candidates,
the chain applied, the token accepted.
"""

import argparse
import ctypes
import time
from collections.abc import Callable
from typing import Any

import llama_cpp
import numpy as np
from common import interleave, keep, machine, report

from engines.llamacpp.runner import Row, Runner
from engines.llamacpp.sampler import Sampler, active_steps, logprobs
from engines.llamacpp.sampler_chain import SamplerChain
from engines.llamacpp.settings import Settings
from engines.protocol import Sampling

VOCABULARY = 262_144
ROWS = 16
TEXT = "The keeper of the lighthouse wrote down the weather, the ships that passed, and "

PATHS = {
    "greedy": Sampling(temperature=0.0),
    "usual": Sampling(seed=1),
    "usual, repeat penalty": Sampling(seed=1, repeat_penalty=1.1),
    "usual, logit bias": Sampling(seed=1, logit_bias=[(5, -100.0), (7, 2.0)]),
    "top-p alone": Sampling(seed=1, top_k=0, min_p=0.0),
    "min-p alone": Sampling(seed=1, top_k=0, top_p=1.0),
    "temperature alone": Sampling(seed=1, top_k=0, top_p=1.0, min_p=0.0, temperature=1.0),
    "DRY": Sampling(seed=1, dry_multiplier=0.8),
    "XTC": Sampling(seed=1, xtc_probability=0.5),
    "typical": Sampling(seed=1, typical_p=0.9),
    "top-n-sigma": Sampling(seed=1, top_n_sigma=1.5),
    "Mirostat 2": Sampling(seed=1, mirostat=2),
}


class Refusing:
    """A grammar that refuses the likeliest tokens of every row, so that the mask is always needed."""

    def __init__(self, allowed: np.ndarray):
        bits = np.zeros(VOCABULARY, np.uint8)
        bits[allowed] = 1
        self._words = np.packbits(bits, bitorder="little").view(np.uint32)

    def allows(self, token: int) -> bool:
        return False

    def mask(self) -> np.ndarray:
        return self._words


def model_rows(path: str) -> list[np.ndarray]:
    settings = Settings(sequences=1, context_tokens=256, kv_tokens=256, batch_tokens=64, step_tokens=64)
    runner = Runner(path, "cpu", 2, settings)
    runner.open_context(settings)
    tokens, start, rows = runner.tokenize(TEXT), 0, []
    for _ in range(ROWS):
        row = runner.decode([Row(0, start, tokens, True)])[0].copy()
        start, tokens = start + len(tokens), [int(row.argmax())]
        rows.append(row)
    runner.close()
    return rows


def noise_rows() -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    rows = generator.standard_normal((ROWS, VOCABULARY)).astype(np.float32) * 3 - 4
    rows[:, generator.integers(0, VOCABULARY, 40)] += np.linspace(20, 5, 40, dtype=np.float32)
    return list(rows)


def timed(rows: list[np.ndarray], choose: Callable[[np.ndarray], Any]) -> dict[str, float]:
    copies = [row.copy() for row in rows]
    started = time.perf_counter()
    for row in copies:
        choose(row)
    return {"µs a token": (time.perf_counter() - started) / len(rows) * 1e6}


class WholeChain:
    """llama.cpp's own: candidates of the whole vocabulary, then every step of the chain."""

    def __init__(self, sampling: Sampling, prompt: list[int]):
        steps = [step for step in active_steps(sampling) if step != "penalties"]
        if sampling.repeat_penalty != 1.0:
            steps.insert(0, "penalties")
        self._chain = SamplerChain(sampling, steps, sampling.seed or 0, None, VOCABULARY, 4096)
        self._bias = None
        if sampling.logit_bias:
            bias = (llama_cpp.llama_logit_bias * len(sampling.logit_bias))(*sampling.logit_bias)
            self._bias = llama_cpp.llama_sampler_init_logit_bias(VOCABULARY, len(bias), bias)
        self._chain.accept(prompt)
        self._candidates = np.empty(VOCABULARY, [("id", np.int32), ("logit", np.float32), ("p", np.float32)])

    def __call__(self, row: np.ndarray) -> int:
        if self._bias:
            data = ctypes.cast(self._candidates.ctypes.data, llama_cpp.llama_token_data_p)
            array = llama_cpp.llama_token_data_array(data, VOCABULARY, -1, False)
            llama_cpp.llama_sampler_apply(self._bias, ctypes.byref(array))
        token = self._chain.sample(row)
        self._chain.accept([token])
        return token

    def close(self) -> None:
        self._chain.close()
        if self._bias:
            llama_cpp.llama_sampler_free(self._bias)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json")
    options = parser.parse_args()
    rows = model_rows(options.gguf) if options.gguf else noise_rows()
    prompt = [int(token) for token in np.random.default_rng(2).integers(0, VOCABULARY, 200)]
    print(machine())
    results = {}
    for name, sampling in PATHS.items():
        ours, whole = Sampler(sampling, prompt), WholeChain(sampling, prompt)
        subjects = {
            "pilothouse": lambda ours=ours: timed(rows, ours.sample),
            "llama.cpp": lambda whole=whole: timed(rows, whole),
        }
        results[name] = interleave(subjects, options.rounds)
        report(name, results[name])
        ours.close()
        whole.close()
    few, many = Refusing(np.arange(0, VOCABULARY, 9000)), Refusing(np.arange(1, VOCABULARY))
    greedy, usual = Sampler(Sampling(temperature=0.0), prompt), Sampler(Sampling(seed=1), prompt)
    extra = {
        "greedy, 30 allowed": lambda: timed(rows, lambda row: greedy.sample(row, allowed=few)),
        "usual, 30 allowed": lambda: timed(rows, lambda row: usual.sample(row, allowed=few)),
        "usual, all but one allowed": lambda: timed(rows, lambda row: usual.sample(row, allowed=many)),
        "log-probability alone": lambda: timed(rows, lambda row: logprobs(row, 1, 0)),
        "log-probabilities, 20 likeliest": lambda: timed(rows, lambda row: logprobs(row, 1, 20)),
    }
    results["masks and log-probabilities"] = interleave(extra, options.rounds)
    report("Masks and log-probabilities", results["masks and log-probabilities"], ours="greedy, 30 allowed")
    keep(options.json, results)


if __name__ == "__main__":
    main()

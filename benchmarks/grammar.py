"""Cost of holding an answer to a grammar: llguidance (ours) against llama.cpp's own grammar sampler.

    python benchmarks/grammar.py --gguf FILE [--rounds N] [--json FILE]

The vocabulary is read from the file; the model is not run. Each subject follows the same answers, token by token:

- *compile*: from the text of the grammar to the first state;
- *one token*: ask whether the token that comes may come (what the sampler asks first);
- *mask*: which of all tokens may come (what is needed when the first was refused);
- *accept*: go on by the token.

llama.cpp gets a JSON schema as the GBNF in GBNF below, which is what its converter makes of it.
"""

import argparse
import ctypes
import statistics
import time
from typing import Any

import llama_cpp
import numpy as np
from common import interleave, keep, machine, report

from engines.llamacpp.grammar import Grammars
from engines.protocol import Grammar

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
PERSON_GBNF = r"""
root ::= "{" space name "," space age "," space tags "}" space
name ::= "\"name\"" space ":" space string
age ::= "\"age\"" space ":" space integer
tags ::= "\"tags\"" space ":" space list
list ::= "[" space (tag ("," space tag)*)? "]" space
tag ::= ("\"red\"" | "\"green\"" | "\"blue\"") space
integer ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) space
string ::= "\"" char* "\"" space
char ::= [^"\\\x7F\x00-\x1F] | [\\] (["\\bfnrt] | "u" [0-9a-fA-F]{4})
space ::= " "?
"""
JSON_GBNF = r"""
root ::= object
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" space (string ":" space value ("," space string ":" space value)*)? "}" space
array ::= "[" space (value ("," space value)*)? "]" space
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" space
number ::= "-"? ([0-9] | [1-9] [0-9]{0,15}) ("." [0-9]+)? ([eE] [-+]? [0-9] [0-9]{0,15})? space
space ::= " "?
"""
PERSON_TEXT = '{"name": "Ada King of Lovelace", "age": 36, "tags": ["red", "blue"]}'
CASES: dict[str, tuple[Grammar, str, str]] = {
    "JSON schema": (Grammar("json_schema", PERSON), PERSON_GBNF, PERSON_TEXT),
    "any JSON object": (Grammar("json_object"), JSON_GBNF, PERSON_TEXT),
    "regular expression": (
        Grammar("regex", r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[a-z ]{3,40}"),
        'root ::= [0-9]{4} "-" [0-9]{2} "-" [0-9]{2} "T" [a-z ]{3,40}',
        "2026-11-24Tevery day of the week",
    ),
    "GBNF itself": (Grammar("gbnf", JSON_GBNF), JSON_GBNF, PERSON_TEXT),
}


class LlamaGrammar:
    """llama.cpp's sampler, as its tools use it: candidates whose logit becomes minus infinity may not come."""

    def __init__(self, vocab: Any, text: str, vocabulary: int):
        self._sampler = llama_cpp.llama_sampler_init_grammar(vocab, text.encode(), b"root")
        if not self._sampler:
            raise SystemExit(f"llama.cpp does not take the grammar:\n{text}")
        self._candidates = np.zeros(vocabulary, [("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._ids = np.arange(vocabulary)

    def allows(self, token: int) -> bool:
        return bool(self._apply(np.array([token]))[0])

    def mask(self) -> np.ndarray:
        return self._apply(self._ids)

    def accept(self, token: int) -> None:
        llama_cpp.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self._sampler)

    def _apply(self, ids: np.ndarray) -> np.ndarray:
        part = self._candidates[: len(ids)]
        part["id"], part["logit"] = ids, 0.0
        data = ctypes.cast(part.ctypes.data, llama_cpp.llama_token_data_p)
        array = llama_cpp.llama_token_data_array(data, len(ids), -1, False)
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        return part["logit"] == 0.0


def follow(compiled_us: float, constraint: Any, tokens: list[int]) -> dict[str, float]:
    spent: dict[str, list[float]] = {"one token, µs": [], "mask, µs": [], "accept, µs": []}
    for token in tokens:
        times = [time.perf_counter()]
        allowed = constraint.allows(token)
        times.append(time.perf_counter())
        constraint.mask()
        times.append(time.perf_counter())
        constraint.accept(token)
        times.append(time.perf_counter())
        if not allowed:
            raise SystemExit(f"token {token} is refused")
        for values, start, end in zip(spent.values(), times, times[1:], strict=False):
            values.append((end - start) * 1e6)
    means = {figure: statistics.mean(values) for figure, values in spent.items()}
    return {"compile, µs": compiled_us, **means, "longest mask, µs": max(spent["mask, µs"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    options = parser.parse_args()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(options.gguf.encode(), params)
    vocab = llama_cpp.llama_model_get_vocab(model)
    vocabulary = llama_cpp.llama_vocab_n_tokens(vocab)
    started = time.perf_counter()
    tokenizer = Grammars(vocab, []).prepare()
    print(f"{machine()}\n\nThe vocabulary of {vocabulary:,} tokens was read in {time.perf_counter() - started:.2f} s.")

    def ours(grammar: Grammar, tokens: list[int]) -> dict[str, float]:
        grammars = Grammars(vocab, [])
        grammars.prepare = lambda: tokenizer  # type: ignore[method-assign]
        started = time.perf_counter()
        constraint = grammars.compile(grammar)
        return follow((time.perf_counter() - started) * 1e6, constraint, tokens)

    def theirs(text: str, tokens: list[int]) -> dict[str, float]:
        started = time.perf_counter()
        constraint = LlamaGrammar(vocab, text, vocabulary)
        figures = follow((time.perf_counter() - started) * 1e6, constraint, tokens)
        constraint.close()
        return figures

    results = {}
    for name, (grammar, gbnf, text) in CASES.items():
        tokens = tokenizer.tokenize_str(text)
        subjects = {
            "pilothouse": lambda grammar=grammar, tokens=tokens: ours(grammar, tokens),
            "llama.cpp": lambda gbnf=gbnf, tokens=tokens: theirs(gbnf, tokens),
        }
        results[name] = interleave(subjects, options.rounds)
        report(f"{name}, {len(tokens)} tokens", results[name])
    keep(options.json, results)
    llama_cpp.llama_model_free(model)


if __name__ == "__main__":
    main()

"""A smaller model of the same vocabulary that guesses ahead for a larger one (speculative decoding)."""

from dataclasses import replace
from pathlib import Path

import llama_cpp

from engines.engine import EngineError
from engines.llamacpp.runner import KvFull, Row, Runner
from engines.llamacpp.settings import Settings

#: Tokens that vocabularies may differ by (padding at the end), and where their comparison begins: as llama.cpp has it.
_SIZE_DIFFERENCE = 128
_FIRST_COMPARED = 5
#: Of a prompt, computed at once.
_BATCH_TOKENS = 512


class DraftModel:
    """The model in ``path``, with key-value memory for ``sequences`` of ``context_tokens`` each, guessing for
    ``target``. Belongs to the target's thread.

    Raises `EngineError`: ``bad_model`` where the vocabularies differ or the model cannot take tokens back;
    ``out_of_memory`` and whatever else loading a model raises.
    """

    def __init__(self, path: str, target: Runner, device: str, threads: int, sequences: int, context_tokens: int):
        self._runner = Runner(path, device, threads, Settings())
        try:
            _check(self._runner, target, Path(path).name)
            settings = replace(
                Settings(),
                sequences=sequences,
                context_tokens=context_tokens,
                kv_tokens=sequences * context_tokens,
                batch_tokens=_BATCH_TOKENS,
            )
            self._runner.open_context(settings)
        except BaseException:
            self._runner.close()
            raise
        self._context_tokens = context_tokens
        self._vocabulary = min(self._runner.vocabulary, target.vocabulary)
        self._free = list(range(sequences))

    def drafter(self) -> "ModelDrafter":
        """A drafter for one sequence: `engines.llamacpp.drafter.Drafter`."""
        return ModelDrafter(self)

    def close(self) -> None:
        self._runner.close()

    def guess(self, slot: int, computed: list[int], tokens: list[int], limit: int) -> list[int]:
        """At most ``limit`` tokens that the model itself would write after ``tokens``. ``computed``, the tokens that
        ``slot`` holds, is brought up to date. Raises `KvFull`, `EngineError`."""
        runner = self._runner
        # The last token is computed in any case: its logits are wanted.
        kept = _common(computed, tokens[:-1])
        if kept < len(computed):
            runner.keep(slot, kept)
        del computed[kept:]
        guessed: list[int] = []
        missing = tokens[kept:]
        while missing:
            piece, missing = missing[:_BATCH_TOKENS], missing[_BATCH_TOKENS:]
            logits = runner.decode([Row(slot, len(computed), piece, 0 if missing else 1)])
            computed += piece
            if missing or len(guessed) == limit:
                continue
            token = int(logits[0, : self._vocabulary].argmax())
            if runner.is_end(token):
                break
            guessed.append(token)
            # What the last guess is followed by is not asked.
            missing = [token] if len(guessed) < limit else []
        return guessed

    def take(self) -> int:
        """A free slot, or -1."""
        return self._free.pop(0) if self._free else -1

    def give_back(self, slot: int) -> None:
        self._runner.keep(slot, 0)
        self._free = sorted([*self._free, slot])

    def fits(self, tokens: list[int], limit: int) -> bool:
        """Whether there is memory for ``tokens`` and the guesses, and the model knows them all (the last is new)."""
        return len(tokens) + limit <= self._context_tokens and max(tokens) < self._vocabulary


class ModelDrafter:
    """What `DraftModel` knows of one sequence. It takes a slot with its first guess; while all are taken, it makes
    none."""

    def __init__(self, model: DraftModel):
        self._model = model
        self._slot = -1
        self._computed: list[int] = []

    def draft(self, tokens: list[int], limit: int) -> list[int]:
        """See `engines.llamacpp.drafter.Drafter`. A guess that fails is none: the answer does not depend on it."""
        if limit < 1 or not tokens or not self._model.fits(tokens, limit):
            return []
        if self._slot < 0:
            self._slot = self._model.take()
        if self._slot < 0:
            return []
        try:
            return self._model.guess(self._slot, self._computed, tokens, limit)
        except (KvFull, EngineError):
            self.close()
            return []

    def close(self) -> None:
        if self._slot >= 0:
            self._model.give_back(self._slot)
        self._slot, self._computed = -1, []


def _common(a: list[int], b: list[int]) -> int:
    """Length of the longest common prefix."""
    if a == b[: len(a)]:
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _check(draft: Runner, target: Runner, name: str) -> None:
    """Raises `EngineError` (``bad_model``) where ``draft`` cannot guess for ``target``; the rules are llama.cpp's."""
    if not draft.can_cut:
        raise EngineError("bad_model", f"{name} is a recurrent model, which cannot take a wrong guess back")
    if reason := _difference(draft.vocab, target.vocab):
        raise EngineError(
            "bad_model",
            f"{name} cannot guess for this model: {reason}",
            hint="Use a smaller model of the same family.",
        )


def _difference(draft: object, target: object) -> str:
    """How two vocabularies (``llama_vocab *``) differ; empty where they do not."""
    kinds = [llama_cpp.llama_vocab_type(vocab) for vocab in (draft, target)]
    if kinds[0] != kinds[1]:
        return "its tokenizer is of another kind"
    for name in ("bos", "eos"):
        adds = [getattr(llama_cpp, f"llama_vocab_get_add_{name}")(vocab) for vocab in (draft, target)]
        ids = [getattr(llama_cpp, f"llama_vocab_{name}")(vocab) for vocab in (draft, target)]
        if adds[0] != adds[1] or (adds[0] and ids[0] != ids[1]):
            return f"its {name.upper()} token differs"
    sizes = [llama_cpp.llama_vocab_n_tokens(vocab) for vocab in (draft, target)]
    if abs(sizes[0] - sizes[1]) > _SIZE_DIFFERENCE:
        return f"its vocabulary has {sizes[0]} tokens, not {sizes[1]}"
    text = llama_cpp.llama_vocab_get_text
    for token in range(_FIRST_COMPARED, min(sizes)):
        if text(draft, token) != text(target, token):
            return f"token {token} differs"
    return ""

"""From a card to what runs: items in, an answer out."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engines import tensors
from engines.card import Card, Frame, TokenizeText, answer_names, gives, takes
from engines.engine import EngineError
from engines.protocol import Signature, TensorSpec
from engines.steps import inputs, outputs
from engines.steps.check import check, refuse, values_before
from engines.steps.examples import example
from engines.steps.feeds import Feed, feed, fits, rows

#: As `engines.engine.TensorEngine.infer`.
Infer = Callable[[dict[str, np.ndarray], Sequence[str]], dict[str, np.ndarray]]


class Steps:
    """The declared steps around one model.

    ``items`` is the signature of both together: one BYTES tensor ``item`` [n] in; out, what the last steps give, [n, …]
    each, with ``tokens`` INT64 [n] where texts are tokenised. Raises `EngineError`: ``bad_setting`` where the card does
    not fit the model, ``missing_library`` where this runtime lacks what a step needs.
    """

    def __init__(self, card: Card, folder: Path, signature: Signature):
        """``folder``: where the files lie that the steps read."""
        check(card, signature)
        self._card, self._batched, self._first = card, signature.batched, signature.outputs[0].name
        self._states = {spec.name: spec for spec in signature.inputs if spec.name in card.states}
        taken = [spec for spec in signature.inputs if spec.name not in self._states]
        wanted = {spec.name for spec in taken} | {mask for step in card.after if (mask := getattr(step, "mask", ""))}
        self._before: list[inputs.OneItem | inputs.Together] = []
        current = "item"
        for step in card.before:
            # Padding changes the answer of a model that sees each text alone, or does not see where padding is.
            pad = self._batched and any(spec.name == getattr(step, "mask", "") for spec in taken)
            apply, current = inputs.build(step, step.input or current, folder, wanted, pad)
            self._before.append(apply)
        self._example = example(card, taken)
        tried = self._try_before()
        self._feeds = self._layout(taken, tried)
        self._framed = any(one.framed for one in self._feeds)
        if self._states and not self._framed:
            raise refuse("card.states", "an item is no sequence: cut it with a frame step")
        self._outputs = {spec.name: rows(spec, self._batched, self._feeds) for spec in signature.outputs}
        self._after, known = self._build_after(card.labels or signature.labels)
        self._answers = answer_names(card, self._first) or list(self._outputs)
        if any(isinstance(step, TokenizeText) for step in card.before):
            known.give("tokens", "INT64", [-1])
            self._answers = [*dict.fromkeys([*self._answers, "tokens"])]
        self._needed = self._needed_outputs()
        axis = 0 if self._batched else -1
        self.items = Signature(
            inputs=[TensorSpec("item", "BYTES", [-1], batch_axis=axis)],
            outputs=[
                TensorSpec(name, known.specs[name].datatype, known.specs[name].shape, batch_axis=axis)
                for name in self._answers
            ],
            batched=self._batched,
            labels=card.labels or signature.labels,
        )

    def run(self, items: Sequence[bytes], infer: Infer, wanted: Iterable[str] = ()) -> dict[str, np.ndarray]:
        """The answer to ``items``, [items, …] by name; ``wanted`` empty: all. Raises `EngineError`
        (``invalid_input``, with the field ``item[2]`` where an item is at fault; and what ``infer`` raises)."""
        if not items:
            raise EngineError("invalid_input", "there is no item", field="item")
        names = list(wanted) or self._answers
        if unknown := set(names) - set(self._answers):
            raise EngineError("invalid_input", f"there is no output {unknown.pop()}", field="outputs")
        kept = self._unwrap(items)
        inputs.run(self._before, kept)
        taken = self._take(kept)
        answers: list[dict[str, np.ndarray]] = []
        order: list[int] = []
        for group in self._groups(taken):
            values = self._infer([taken[index] for index in group], infer)
            members = [kept[index] for index in group]
            for after in self._after:
                after(values, members)
            if "tokens" in names:
                values["tokens"] = np.array([item[inputs.TOKENS] for item in members], np.int64)
            answers.append({name: values[name] for name in names})
            order += group
        return answers[0] if len(answers) == 1 else _merge(names, answers, order)

    def warm(self, infer: Infer) -> None:
        """Run an example, so that the first request finds everything ready and a card that does not fit is known now.
        Raises `EngineError` (``bad_setting``)."""
        if self._example is None:
            return
        try:
            answer = self.run([self._example], infer)
        except EngineError as error:
            if error.code == "out_of_memory":
                raise
            problem = f"the model does not take what the steps make of an example: {error.message}"
            raise refuse("card", problem) from None
        for spec in self.items.outputs:
            if not fits(answer[spec.name].shape, spec.shape):
                raise refuse("card.after", f"{spec.name} should be {spec.shape}, is {[*answer[spec.name].shape]}")

    def _unwrap(self, items: Sequence[bytes]) -> list[inputs.Item]:
        values = []
        for index, data in enumerate(items):
            try:
                values.append({"item": inputs.unwrap(self._card.item, data)})
            except ValueError as error:
                raise inputs.unreadable(index, error) from None
        return values

    def _take(self, kept: Sequence[inputs.Item]) -> list[list[np.ndarray]]:
        """Of each item, what each of the feeds takes."""
        taken = []
        for index, item in enumerate(kept):
            try:
                taken.append([one.take(item[one.value]) for one in self._feeds])
            except ValueError as error:
                raise inputs.unreadable(index, error) from None
        return taken

    def _groups(self, taken: Sequence[list[np.ndarray]]) -> list[list[int]]:
        """Which items run together: those of equal shapes that agree on what all share; one by one where the model is
        not batched."""
        if not self._batched:
            return [[index] for index in range(len(taken))]
        groups: dict[Any, list[int]] = {}
        for index, arrays in enumerate(taken):
            key = tuple(
                array.shape if one.axis is not None else array.tobytes()
                for one, array in zip(self._feeds, arrays, strict=True)
            )
            groups.setdefault(key, []).append(index)
        return list(groups.values())

    def _infer(self, taken: Sequence[list[np.ndarray]], infer: Infer) -> dict[str, np.ndarray]:
        """The needed outputs [items, …] (with frames: [items, frames, …]) for items of equal shapes."""
        count = len(taken)
        if not self._framed:
            given = infer(self._joined(taken), self._needed)
            return {name: self._outputs[name].take(given[name], count) for name in self._needed}
        frames = next(len(taken[0][i]) for i, one in enumerate(self._feeds) if one.framed)
        if self._states or not self._batched:
            return self._scan(taken, frames, infer)
        flat = [
            [array[frame] if one.framed else array for one, array in zip(self._feeds, arrays, strict=True)]
            for arrays in taken
            for frame in range(frames)
        ]
        given = infer(self._joined(flat), self._needed)
        values = {name: self._outputs[name].take(given[name], count * frames) for name in self._needed}
        return {name: array.reshape(count, frames, *array.shape[1:]) for name, array in values.items()}

    def _scan(self, taken: Sequence[list[np.ndarray]], frames: int, infer: Infer) -> dict[str, np.ndarray]:
        """Frame after frame, each with the states that the one before left."""
        count = len(taken)
        states = {
            name: np.zeros(
                [count if axis == spec.batch_axis else size for axis, size in enumerate(spec.shape)],
                tensors.DTYPES[spec.datatype],
            )
            for name, spec in self._states.items()
        }
        asked = list(dict.fromkeys([*self._needed, *self._card.states.values()]))
        parts = []
        for frame in range(frames):
            now = [
                [array[frame] if one.framed else array for one, array in zip(self._feeds, arrays, strict=True)]
                for arrays in taken
            ]
            given = infer(self._joined(now) | states, asked)
            states = {name: given[output] for name, output in self._card.states.items()}
            parts.append([self._outputs[name].take(given[name], count) for name in self._needed])
        return {name: np.stack([part[i] for part in parts], axis=1) for i, name in enumerate(self._needed)}

    def _joined(self, taken: Sequence[list[np.ndarray]]) -> dict[str, np.ndarray]:
        return {one.spec.name: one.join([arrays[i] for arrays in taken]) for i, one in enumerate(self._feeds)}

    def _try_before(self) -> inputs.Item | None:
        """The values of an example, so that what does not fit is known while loading."""
        if self._example is None:
            return None
        items = self._unwrap([self._example])
        for place, step in enumerate(self._before):
            try:
                inputs.run([step], items)
            except EngineError as error:
                problem = error.message.removeprefix("item[0]: ")
                raise refuse(f"card.before[{place}]", f"an example does not pass: {problem}") from None
            except TypeError as error:
                raise refuse(f"card.before[{place}]", f"it does not take what the step before gives: {error}") from None
        return items[0]

    def _layout(self, taken: Sequence[TensorSpec], tried: inputs.Item | None) -> list[Feed]:
        frames = any(isinstance(step, Frame) for step in self._card.before)
        names, last = values_before(self._card)
        feeds = []
        for spec in taken:
            value = spec.name if spec.name in names else last
            rank = None if tried is None else np.ndim(tried[value])
            one = feed(spec, value, self._batched, rank, frames)
            if tried is not None:
                try:
                    one.take(tried[value])
                except ValueError as error:
                    raise refuse("card.before", str(error)) from None
            feeds.append(one)
        return feeds

    def _build_after(self, labels: list[str]) -> tuple[list[outputs.Apply], outputs.Known]:
        known = outputs.Known({}, labels)
        for name, one in self._outputs.items():
            shape = [-1, -1, *one.shape[1:]] if self._framed else one.shape
            known.give(name, one.datatype, shape)
        applied, current = [], self._first
        for place, step in enumerate(self._card.after):
            try:
                apply, current = outputs.build(step, step.input or current, known)
            except ValueError as error:
                raise refuse(f"card.after[{place}]", str(error)) from None
            applied.append(apply)
        return applied, known

    def _needed_outputs(self) -> list[str]:
        """Of the model's outputs, those that the steps after it take."""
        if not self._card.after:
            return list(self._outputs)
        current, needed = self._first, {}
        for step in self._card.after:
            needed.update(dict.fromkeys(name for name in takes(step, current) if name in self._outputs))
            current = gives(step, step.input or current)[0]
        return list(needed)


def _merge(
    names: Sequence[str], answers: Sequence[dict[str, np.ndarray]], order: Sequence[int]
) -> dict[str, np.ndarray]:
    """The answers of groups, in the order of the items."""
    places = np.argsort(order)
    try:
        return {name: np.concatenate([answer[name] for answer in answers])[places] for name in names}
    except ValueError:
        raise EngineError(
            "invalid_input", "the answers to these items have different shapes: ask for them one by one", field="item"
        ) from None

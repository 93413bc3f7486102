"""What runs show, with functions in place of models."""

import numpy as np
import pytest

from engines.engine import EngineError
from engines.onnxruntime.probe import LENGTHS, probe
from engines.protocol import TensorSpec

X = TensorSpec("x", "FP32", [-1, 3], axes=["n", ""])
Y = TensorSpec("y", "FP32", [-1, -1])


def of_x(function):
    return lambda feeds: {"y": function(feeds["x"])}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_rows_that_come_out_as_they_do_alone_are_batched():
    found = probe(of_x(lambda x: x * 2), [X], [Y])
    assert found.batched and not found.notes
    assert (found.inputs[0].batch_axis, found.outputs[0].batch_axis) == (0, 0)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: x - x.mean(axis=0, keepdims=True), "rows of a batch influence each other (output y)"),
        (lambda x: x[::-1], "influence each other"),
        (lambda x: np.cumsum(x, axis=0), "influence each other"),
        (lambda x: x @ x.T, "does not follow the rows"),
        (lambda x: x.reshape(-1), "does not follow the rows"),
        (lambda x: x.sum(), "does not follow the rows"),
        (lambda x: x[x > 0.5], "does not follow the rows"),
        (lambda x: x[:2], "does not follow the rows"),
    ],
)
def test_what_mixes_rows_is_not_batched_and_the_note_says_why(function, why):
    found = probe(of_x(function), [X], [Y])
    assert not found.batched
    assert why in found.notes[0]
    assert found.inputs == [X], "nothing of the failed attempt is left in the signature"


def test_labels_alone_show_that_rows_influence_each_other():
    """A classifier that gives only a label, after a batch normalisation that was never frozen."""
    found = probe(of_x(lambda x: (x.max(axis=1, keepdims=True) >= x.max()).astype(np.int64)), [X], [Y])
    assert "influence each other" in found.notes[0]


def test_a_model_that_draws_at_random_is_not_said_to_mix_rows():
    random = np.random.default_rng(1)
    found = probe(of_x(lambda x: random.normal(size=x.shape)), [X], [Y])
    assert not found.batched
    assert "another one each time" in found.notes[0]


def test_a_model_that_takes_one_row_only_is_not_batched():
    def run(feeds):
        if len(feeds["x"]) > 1:
            raise EngineError("invalid_input", "one at a time")
        return feeds | {"y": feeds["x"]}

    found = probe(run, [X], [Y])
    assert not found.batched
    assert "a run with several rows fails (one at a time)" in found.notes[0]


def test_badly_conditioned_numbers_get_a_second_look():
    """Differences beyond rounding, but small, for zeros and ones only: the model is sound for real values."""

    def noisy(x):
        return x.astype(np.float32) + (0.004 * len(x) if x.max() <= 1 else 0.0)

    ids = TensorSpec("x", "INT64", [-1, 3])
    assert probe(of_x(noisy), [ids], [Y]).batched
    found = probe(of_x(lambda x: noisy(np.minimum(x, 1))), [ids], [Y])
    assert "influence each other" in found.notes[0]


def test_a_quantised_model_may_differ_a_little_and_says_so():
    def rounded(x):
        step = np.abs(x).max() / 127
        return np.round(x / step) * step

    assert not probe(of_x(rounded), [X], [Y]).batched
    found = probe(of_x(rounded), [X], [Y], quantized=True)
    assert found.batched
    assert "depends a little" in found.notes[0]


def test_the_axis_of_an_output_is_where_the_rows_are():
    found = probe(of_x(lambda x: x.T), [X], [Y])
    assert (found.inputs[0].batch_axis, found.outputs[0].batch_axis) == (0, 1)


@pytest.mark.parametrize("length", [1, 16, 64, 576, 16000])
def test_lengths_are_tried_until_one_runs(length):
    free = TensorSpec("x", "FP32", [-1, -1], axes=["n", "s"])

    def run(feeds):
        if feeds["x"].shape[1] != length:
            raise EngineError("invalid_input", "another length")
        return {"y": feeds["x"]}

    assert length in LENGTHS
    assert probe(run, [free], [Y]).batched


def test_a_length_that_the_error_names_is_tried():
    free = TensorSpec("x", "FP32", [-1, -1])

    def run(feeds):
        if feeds["x"].shape[1] != 37:
            raise EngineError("invalid_input", f"Status Message: W: {{37,10}} K: {feeds['x'].shape[1]}")
        return {"y": feeds["x"]}

    assert probe(run, [free], [Y]).batched


def test_axes_of_equal_name_have_equal_lengths_and_others_are_found_one_by_one():
    a, b, c = (TensorSpec(n, "FP32", [-1, -1], axes=["n", axis]) for n, axis in [("a", "s"), ("b", "s"), ("c", "t")])
    seen = []

    def run(feeds):
        shapes = [feeds[name].shape[1] for name in "abc"]
        seen.append(shapes)
        if shapes[0] != 20:
            raise EngineError("invalid_input", "Status Message: a must have 20")
        if shapes[2] != 9:
            raise EngineError("invalid_input", "Status Message: c must have 9")
        return {"y": feeds["a"]}

    assert probe(run, [a, b, c], [Y]).batched
    assert all(first == second for first, second, _ in seen)


def test_large_fixed_inputs_are_tried_but_guesses_that_make_them_large_are_not():
    sizes = []

    def run(feeds):
        sizes.append(feeds["x"].size)
        if feeds["x"].shape[-1] < 4096:
            raise EngineError("invalid_input", "too short")
        return {"y": feeds["x"]}

    assert probe(run, [TensorSpec("x", "FP32", [-1, 1100, 4096])], [Y]).batched
    sizes.clear()
    assert not probe(run, [TensorSpec("x", "FP32", [-1, 1100, -1])], [Y]).batched
    assert max(sizes) <= 1 << 22


def test_where_no_length_runs_it_is_served_unbatched_and_the_error_is_told():
    def run(feeds):
        raise EngineError("invalid_input", "the stars are wrong")

    found = probe(run, [TensorSpec("x", "FP32", [-1, -1])], [Y])
    assert not found.batched and found.sample is None
    assert "the probe could not run the model (the stars are wrong)" in found.notes[0]


def test_texts_that_must_be_numbers_are_found():
    texts = TensorSpec("x", "BYTES", [-1, 1])

    def run(feeds):
        if any(not value.isdigit() for value in feeds["x"].reshape(-1)):
            raise EngineError("invalid_input", "not a number")
        return {"y": feeds["x"].astype(np.float32)}

    assert probe(run, [texts], [Y]).batched


def test_a_heavy_model_is_tried_with_two_rows_and_a_heavier_one_not_at_all():
    def taking(seconds_per_row):
        clock = Clock()

        def run(feeds):
            clock.now += seconds_per_row * len(feeds["x"])
            return {"y": feeds["x"]}

        return probe(run, [X], [Y], budget_s=5.0, clock=clock), clock.now

    found, _ = taking(0.1)
    assert found.batched and not found.notes
    found, spent = taking(1.1)
    assert found.batched and spent <= 6
    assert "two rows only" in found.notes[0]
    found, spent = taking(2.0)
    assert not found.batched and spent <= 5
    assert "stopped after" in found.notes[0]
    found, _ = taking(60.0)
    assert not found.batched and found.row_s == 60


def test_an_optional_output_that_is_missing_at_times_ends_batching():
    def run(feeds):
        return {"y": feeds["x"]} if feeds["x"].max() > 1 else {}

    assert not probe(run, [X], [Y]).batched


def test_a_shared_input_is_the_same_in_every_run():
    scale = TensorSpec("scale", "FP32", [])
    seen = set()

    def run(feeds):
        seen.add(float(feeds["scale"]))
        return {"y": feeds["x"] * feeds["scale"]}

    found = probe(run, [X, scale], [Y])
    assert found.batched and len(seen) == 1
    assert [spec.batch_axis for spec in found.inputs] == [0, -1]


def test_what_a_file_says_wrongly_of_an_output_is_put_right():
    wrong = TensorSpec("y", "FP32", [1, 5], axes=[])
    found = probe(of_x(lambda x: x), [X], [wrong])
    assert found.outputs[0].shape == [-1, -1]
    rankless = TensorSpec("y", "FP32", [])
    assert probe(of_x(lambda x: x), [X], [rankless]).outputs[0].shape == [-1, -1]

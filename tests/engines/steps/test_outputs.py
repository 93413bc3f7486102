"""What is made of a model's outputs, against scipy, scikit-learn and formulas written out."""

import msgspec
import numpy as np
import pytest
from scipy.special import expit
from scipy.special import softmax as scipy_softmax
from sklearn.preprocessing import normalize

from engines.card import AfterStep, Regression, TopK
from engines.protocol import TensorSpec
from engines.steps import outputs

RANDOM = np.random.default_rng(11)


def run(declared, values, kept=None, labels=()):
    """What one step, or several, give of ``values`` (name → array); with what was known of it before."""
    known = outputs.Known(
        {name: TensorSpec(name, "FP32", [-1, *array.shape[1:]]) for name, array in values.items()}, list(labels)
    )
    values, current = dict(values), next(iter(values))
    count = len(values[current])
    for step in declared if isinstance(declared, list) else [declared]:
        typed = msgspec.convert(step, AfterStep)
        apply, current = outputs.build(typed, typed.input or current, known)
        apply(values, kept or [{}] * count)
    for name, array in values.items():
        spec = known.specs[name]
        assert len(spec.shape) == array.ndim
        assert all(size in (-1, have) for size, have in zip(spec.shape, array.shape, strict=True)), name
        if name in known.specs and array.dtype.kind == "O":
            assert spec.datatype == "BYTES"
    return values


@pytest.mark.parametrize("scale", [1, 1000])
def test_softmax_and_sigmoid_are_scipys(scale):
    x = (RANDOM.normal(size=(4, 7)) * scale).astype(np.float32)
    np.testing.assert_allclose(run({"step": "softmax"}, {"x": x})["x"], scipy_softmax(x, axis=1), atol=1e-6)
    np.testing.assert_allclose(run({"step": "sigmoid"}, {"x": x})["x"], expit(x), atol=1e-6)
    warm = run({"step": "softmax", "temperature": 2.0}, {"x": x})["x"]
    np.testing.assert_allclose(warm, scipy_softmax(x / 2, axis=1), atol=1e-6)


def test_half_precision_is_widened_before_it_is_computed_with():
    x = np.array([[60000, 60000]], np.float16)
    given = run({"step": "softmax"}, {"x": x})["x"]
    assert given.dtype == np.float32 and given.tolist() == [[0.5, 0.5]]


def test_the_best_come_first_and_have_names():
    x = np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]], np.float32)
    given = run({"step": "top_k", "k": 2}, {"x": x}, labels=["cat", "dog", "kuh ü"])
    assert given["label"].tolist() == [[b"dog", "kuh ü".encode()], [b"cat", b"dog"]]
    np.testing.assert_array_equal(given["score"], np.array([[0.7, 0.2], [0.5, 0.5]], np.float32))
    given = run({"step": "top_k", "k": 0, "label": "class", "score": "p"}, {"x": x})
    assert given["class"].tolist() == [[b"1", b"2", b"0"], [b"0", b"1", b"2"]] and given["p"].shape == (2, 3)
    assert run({"step": "top_k", "k": 9}, {"x": x})["score"].shape == (2, 3)


def test_a_label_below_its_minimum_is_another():
    x = np.array([[0.6, 0.4], [0.2, 0.8]], np.float32)
    step = {"step": "top_k", "minimum": 0.5, "minimums": {"b": 0.9, "a": 0.1}, "other": "unknown"}
    assert run(step, {"x": x}, labels=["a", "b"])["label"].tolist() == [[b"a", b"unknown"], [b"unknown", b"a"]]
    step = {"step": "top_k", "minimums": {"b": 0.9}}
    assert run(step, {"x": x}, labels=["a", "b"])["label"].tolist() == [[b"a", b""], [b"", b"a"]]


def test_an_index_has_a_name():
    x = RANDOM.normal(size=(5, 3)).astype(np.float32)
    given = run([{"step": "argmax"}, {"step": "labels", "other": "?"}], {"x": x}, labels=["a", "b", "c"])
    assert given["index"].tolist() == x.argmax(1).tolist()
    assert given["label"].tolist() == [b"abc"[i : i + 1] for i in x.argmax(1)]
    given = run({"step": "labels", "other": "?"}, {"x": np.array([[0, 9], [-1, 1]])}, labels=["a", "b"])
    assert given["label"].tolist() == [[b"a", b"?"], [b"?", b"b"]]


def test_a_threshold_says_yes_or_no():
    given = run({"step": "threshold", "minimum": 0.3}, {"x": np.array([[0.3, 0.29]])})["x"]
    assert given.tolist() == [[True, False]] and given.dtype == np.bool_


def test_the_mean_leaves_padding_out():
    tokens = RANDOM.normal(size=(3, 5, 4)).astype(np.float32)
    masks = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    kept = [{"attention_mask": mask} for mask in masks]
    given = run({"step": "mean_pool"}, {"x": tokens}, kept)["embedding"]
    np.testing.assert_allclose(given[0], tokens[0].mean(0), atol=1e-6)
    np.testing.assert_allclose(given[1], tokens[1, :2].mean(0), atol=1e-6)
    assert given[2].tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(run({"step": "mean_pool"}, {"x": tokens})["embedding"], tokens.mean(1), atol=1e-6)


def test_one_token_may_stand_for_all():
    tokens = RANDOM.normal(size=(3, 4, 2)).astype(np.float32)
    kept = [{"attention_mask": np.array(mask)} for mask in ([1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1])]
    np.testing.assert_array_equal(run({"step": "cls_pool"}, {"x": tokens}, kept)["embedding"], tokens[:, 0])
    last = run({"step": "last_pool"}, {"x": tokens}, kept)["embedding"]
    np.testing.assert_array_equal(last, [tokens[0, 3], tokens[1, 1], tokens[2, 3]])


def test_lengths_become_one():
    x = RANDOM.normal(size=(4, 9)).astype(np.float32)
    np.testing.assert_allclose(run({"step": "normalize_l2"}, {"x": x})["embedding"], normalize(x), atol=1e-6)
    assert run({"step": "normalize_l2"}, {"x": np.zeros((1, 3), np.float32)})["embedding"].tolist() == [[0, 0, 0]]


def test_a_regression_has_its_own_scale():
    x = np.array([[1.0], [-2.0], [40.0]], np.float32)
    step = {"step": "regression", "scale": 10, "offset": 5, "minimum": 0, "maximum": 100}
    assert run(step, {"x": x})["value"].tolist() == [15, 0, 100]
    assert run({"step": "regression"}, {"x": np.float64([[1, 2]])})["value"].tolist() == [[1, 2]]
    assert outputs.regression(Regression(), np.array([3])).dtype == np.float32


def test_parts_are_selected_and_turned():
    x = RANDOM.normal(size=(2, 6, 5)).astype(np.float32)
    turned = run([{"step": "transpose"}, {"step": "select", "start": 1, "end": 4, "output": "part"}], {"x": x})
    np.testing.assert_array_equal(turned["part"], x.transpose(0, 2, 1)[..., 1:4])
    np.testing.assert_array_equal(run({"step": "select", "index": -1, "axis": 1}, {"x": x})["x"], x[:, -1])
    np.testing.assert_array_equal(run({"step": "select", "start": -2, "axis": 1}, {"x": x})["x"], x[:, -2:])
    other = run([{"step": "select", "input": "y"}, {"step": "softmax"}], {"x": x, "y": x[:, 0]})
    np.testing.assert_array_equal(other["x"], x)
    np.testing.assert_allclose(other["y"].sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("step", "shape", "labels", "words"),
    [
        ({"step": "top_k"}, (2, 3), ["a", "b"], "2 labels for 3 classes of x"),
        ({"step": "top_k"}, (2,), [], r"x is \[-1\], not \[batch, classes\]"),
        ({"step": "labels"}, (2,), [], "neither the card nor the file has labels"),
        ({"step": "mean_pool"}, (2, 3), [], r"not \[batch, tokens, n\]"),
        ({"step": "softmax", "axis": 2}, (2, 3), [], "no axis 2"),
        ({"step": "softmax", "axis": 0}, (2, 3), [], "no axis 0 beside that of the batch"),
        ({"step": "select", "index": 3}, (2, 3), [], "index: the axis has 3 places"),
        ({"step": "transpose"}, (2, 3), [], "axes: x has 2 axes"),
        ({"step": "nms", "scores": "s"}, (2, 3, 4), [], "there is no value s; there are x"),
    ],
)
def test_a_step_that_does_not_fit_says_why(step, shape, labels, words):
    with pytest.raises(ValueError, match=words):
        run(step, {"x": np.zeros(shape, np.float32)}, labels=labels)


def test_scores_that_are_no_numbers_are_never_the_best():
    assert outputs.top(np.array([[np.nan, 1, 2]]), 1).tolist() == [[2]]
    given = run(msgspec.to_builtins(TopK(k=1)), {"x": np.array([[np.nan, 1]], np.float32)})
    assert given["label"].tolist() == [[b"1"]]

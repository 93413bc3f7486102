"""Sampling fields under every name that clients use."""

import math

import pytest

from app.api.sampling import sampling, seeds, stops
from app.errors import InvalidInput
from engines.protocol import Sampling


def test_nothing_given_is_the_default_and_other_fields_are_passed_over():
    assert sampling({}) == sampling({"temperature": None, "model": "x", "top_k": None}) == Sampling()


def test_defaults_of_a_caller_stay_where_nothing_is_given():
    base = Sampling(temperature=1.0, top_p=1.0)
    assert sampling({"top_p": 0.5}, defaults=base) == Sampling(temperature=1.0, top_p=0.5)
    assert sampling({}, defaults=base) is base


@pytest.mark.parametrize(
    "name", [name for name in Sampling.__struct_fields__ if isinstance(getattr(Sampling(), name), (int, float))]
)
def test_every_number_of_the_workers_can_be_asked_for(name):
    value = 1
    assert getattr(sampling({name: value}), name) == value


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"repetition_penalty": 1.3}, "repeat_penalty", 1.3),
        ({"repetition_penalty": 1.3, "repeat_penalty": 1.1}, "repeat_penalty", 1.1),
        ({"typ_p": 0.9}, "typical_p", 0.9),
        ({"top_k": -1}, "top_k", 0),
        ({"top_k": 20.0}, "top_k", 20),
        ({"seed": -1}, "seed", None),
        ({"seed": 0}, "seed", 0),
        ({"dry_base": 0.5}, "dry_base", 1.75),
        ({"logit_bias": {"1": -100, "2": 100}}, "logit_bias", [(1, -math.inf), (2, 100.0)]),
        ({"logit_bias": [[1, False], [2, 0.5]]}, "logit_bias", [(1, -math.inf), (2, 0.5)]),
        ({"samplers": ["top-k", "TEMP", "typ_p", "minp"]}, "samplers", ["top_k", "temperature", "typ_p", "min_p"]),
        ({"samplers": "kt"}, "samplers", ["top_k", "temperature"]),
        ({"dry_sequence_breakers": '["\\n", ";"]'}, "dry_sequence_breakers", ("\n", ";")),
    ],
)
def test_other_names_and_forms_mean_the_same(given, field, value):
    assert getattr(sampling(given), field) == value


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"temperature": True}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_k": 1.5}, "top_k"),
        ({"mirostat": 3}, "mirostat"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": 5}, "logit_bias"),
        ({"logit_bias": {"-3": 1}}, "logit_bias.-3"),
        ({"logit_bias": [[1, "x"]]}, "logit_bias[0]"),
        ({"samplers": ["nope"]}, "samplers[0]"),
        ({"samplers": "kz"}, "samplers[1]"),
        ({"dry_sequence_breakers": [1]}, "dry_sequence_breakers"),
    ],
)
def test_what_is_out_of_range_is_named_as_it_was_called(given, field):
    with pytest.raises(InvalidInput) as caught:
        sampling(given, "options.")
    assert caught.value.field == f"options.{field}"
    assert f"options.{field}" in caught.value.message


def test_choices_have_seeds_that_follow_one_another_and_never_overflow():
    assert [entry.seed for entry in seeds(Sampling(seed=5), 3)] == [5, 6, 7]
    assert [entry.seed for entry in seeds(Sampling(), 2)] == [None, None]
    most = (1 << 64) - 1
    assert [entry.seed for entry in seeds(Sampling(seed=most), 2)] == [most, 0]


def test_stop_strings():
    assert stops(None) == stops("") == stops([""]) == []
    assert stops("a") == ["a"]
    with pytest.raises(InvalidInput):
        stops(["x"] * 1000)

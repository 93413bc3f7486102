"""What the parameters of a request mean."""

import pytest

from app.api.kserve import parameters
from app.api.kserve.parameters import Place, Wanted
from app.dataplane.inference import SequenceMark
from app.errors import InvalidInput


def ask(timeout_s=None, **given):
    return parameters.ask([], [Wanted("y")], given, 1.0, timeout_s)


def test_a_request_without_parameters_leaves_all_to_the_deployment():
    call = ask()
    assert (call.outputs, call.arrived, call.timeout_s, call.priority, call.sequence) == (["y"], 1.0, None, 0, None)


def test_an_output_is_asked_for_once():
    with pytest.raises(InvalidInput, match="twice"):
        parameters.ask([], [Wanted("y"), Wanted("z"), Wanted("y")], {}, 1.0, None)


def test_a_timeout_is_in_microseconds_and_0_is_none():
    assert ask(timeout=1500).timeout_s == 0.0015
    assert ask(timeout=0).timeout_s is None


def test_of_two_timeouts_the_shorter_counts():
    assert ask(timeout_s=2.0, timeout=1_000_000).timeout_s == 1.0
    assert ask(timeout_s=0.5, timeout=1_000_000).timeout_s == 0.5
    assert ask(timeout_s=0.5).timeout_s == 0.5


def test_a_sequence_is_a_number_or_a_text():
    assert ask(sequence_id=7, sequence_start=True).sequence == SequenceMark(7, True, False)
    assert ask(sequence_id="a", sequence_end=True).sequence == SequenceMark("a", False, True)
    assert ask(sequence_id=(1 << 64) - 1).sequence == SequenceMark((1 << 64) - 1)


@pytest.mark.parametrize("none", [0, ""])
def test_an_empty_id_is_no_sequence(none):
    assert ask(sequence_id=none, sequence_start=True).sequence is None


def test_unknown_parameters_are_ignored():
    assert ask(anything={"at": "all"}, priority=3).priority == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", -1),
        ("timeout", "1"),
        ("timeout", 1.5),
        ("timeout", True),
        ("timeout", 1 << 60),
        ("priority", -1),
        ("priority", "high"),
        ("sequence_id", -1),
        ("sequence_id", 1 << 64),
        ("sequence_id", 1.5),
        ("sequence_id", "x" * 129),
    ],
)
def test_a_parameter_of_another_kind_is_refused_by_name(name, value):
    with pytest.raises(InvalidInput, match=name) as caught:
        ask(**{name: value})
    assert caught.value.field == f"parameters.{name}"


@pytest.mark.parametrize("name", ["sequence_start", "sequence_end"])
def test_the_ends_of_a_sequence_are_true_or_false(name):
    with pytest.raises(InvalidInput, match=name):
        ask(sequence_id=1, **{name: 1})


def test_an_output_may_be_wanted_as_classes_or_in_shared_memory():
    assert parameters.wanted("y", {}) == Wanted("y")
    assert parameters.wanted("y", {"classification": 3, "binary_data": True}) == Wanted("y", 3)
    where = {"shared_memory_region": "r", "shared_memory_byte_size": 8, "shared_memory_offset": 4}
    assert parameters.wanted("y", where) == Wanted("y", 0, Place("r", 4, 8))
    with pytest.raises(InvalidInput, match="classes are texts"):
        parameters.wanted("y", where | {"classification": 1})


@pytest.mark.parametrize("name", ["shared_memory_offset", "shared_memory_byte_size"])
@pytest.mark.parametrize("value", [-1, "4", 1.5])
def test_a_place_in_shared_memory_is_whole_numbers(name, value):
    where = {"shared_memory_region": "r", "shared_memory_byte_size": 8, name: value}
    with pytest.raises(InvalidInput, match=rf"inputs\.x\.parameters\.{name}"):
        parameters.place(where, "inputs.x.")

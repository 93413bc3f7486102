"""Traces: whose, how many, and what is in one."""

import time

import msgspec
import pytest

from app.api.kserve.tracing import FILE, Tracing
from app.dataplane.inference import Inference
from app.dataplane.routing import Target
from app.errors import InvalidInput


@pytest.fixture
def tracing(tmp_path):
    made = Tracing(tmp_path)
    yield made
    made.close()


@pytest.fixture
def lines(tmp_path):
    def read():
        path = tmp_path / FILE
        return [msgspec.json.decode(line) for line in path.read_text().splitlines()] if path.exists() else []

    return read


def answer(route="r", **times):
    return Inference(Target(route, "m", 3, "", 0), [], **times)


def record(tracing, route="r", name="", **times):
    now = time.perf_counter()
    tracing.record(name, answer(route, **times), now - 0.010, now - 0.009)


def test_nothing_is_traced_until_it_is_asked_for(tracing, lines):
    assert not tracing.active
    assert tracing.settings().trace_level == ["OFF"]
    assert tracing.settings().trace_rate == "1000"
    tracing.update({"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    assert tracing.active
    tracing.update({"trace_level": ["OFF"]})
    assert not tracing.active
    record(tracing)
    assert lines() == []


def test_a_trace_has_the_moments_of_the_request_in_order(tracing, lines):
    tracing.update({"trace_level": "TIMESTAMPS", "trace_rate": 1})
    before = time.time_ns()
    record(tracing, name="mine", queue_s=0.002, input_s=0.001, compute_s=0.003, output_s=0.001)
    (trace,) = lines()
    assert (trace["model_name"], trace["model_version"], trace["request_id"]) == ("r", 3, "mine")
    moments = {entry["name"]: entry["ns"] for entry in trace["timestamps"]}
    assert list(moments) == [
        "REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END",
        "REQUEST_END",
    ]  # fmt: skip
    assert list(moments.values()) == sorted(moments.values())
    assert moments["COMPUTE_START"] - moments["QUEUE_START"] == pytest.approx(2e6, abs=1e3)
    assert moments["COMPUTE_OUTPUT_START"] - moments["COMPUTE_INPUT_END"] == pytest.approx(3e6, abs=1e3)
    assert before - 1e9 < moments["REQUEST_START"] < moments["REQUEST_END"] < time.time_ns() + 1e9


def test_an_answer_out_of_the_cache_was_not_computed(tracing, lines):
    tracing.update({"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    record(tracing, cached=True)
    (trace,) = lines()
    assert [entry["name"] for entry in trace["timestamps"]] == ["REQUEST_START", "QUEUE_START", "REQUEST_END"]


def test_one_of_so_many_and_at_most_so_many(tracing, lines):
    tracing.update({"trace_level": ["TIMESTAMPS"], "trace_rate": "3", "trace_count": "2"})
    for n in range(1, 13):
        record(tracing, name=str(n))
    assert [trace["request_id"] for trace in lines()] == ["3", "6"]
    tracing.update({"trace_count": "1"})  # counts anew
    for n in range(13, 19):
        record(tracing, name=str(n))
    assert len(lines()) == 3


def test_a_model_may_have_settings_of_its_own(tracing, lines):
    tracing.update({"trace_level": ["TIMESTAMPS"], "trace_rate": "1"}, "loud")
    assert tracing.settings("quiet").trace_level == ["OFF"]
    for route in ("quiet", "loud"):
        record(tracing, route)
    assert [trace["model_name"] for trace in lines()] == ["loud"]
    tracing.update({"trace_rate": "7"})
    assert tracing.settings("loud").trace_rate == "1"
    assert tracing.settings("quiet").trace_rate == "7"
    tracing.update({"trace_rate": None}, "loud")
    assert tracing.settings("loud").trace_rate == "7"
    tracing.update({"trace_level": None}, "loud")
    assert not tracing.active


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"trace_level": []}, "trace_level"),
        ({"trace_level": ["TENSORS"]}, "TENSORS"),
        ({"trace_level": ["LOUD"]}, "trace_level"),
        ({"trace_level": 5}, "trace_level"),
        ({"trace_rate": "0"}, "trace_rate"),
        ({"trace_rate": "many"}, "trace_rate"),
        ({"trace_rate": True}, "trace_rate"),
        ({"trace_rate": "9" * 30}, "trace_rate"),
        ({"trace_count": "-2"}, "trace_count"),
        ({"trace_file": "../elsewhere"}, "trace_file"),
        ({"trace_mode": "opentelemetry"}, "trace_mode"),
        ({"anything": 1}, "anything"),
    ],
)
def test_a_refused_change_changes_nothing(tracing, changes, word):
    before = tracing.settings()
    with pytest.raises(InvalidInput, match=word):
        tracing.update({"log_frequency": "5"} | changes)
    assert tracing.settings() == before


def test_what_is_fixed_may_be_sent_back_as_it_is(tracing):
    now = tracing.settings()
    sent = {name: getattr(now, name) for name in now.__struct_fields__}
    assert tracing.update(sent) == now

from app.schema.manage import RouteSample
from ui.pages.monitor import time_parts


def test_a_tensor_answer_waits_computes_and_travels():
    sample = RouteSample(time="", route="a", queue_ms=1.0, compute_ms=2.0, overhead_ms=0.5)
    assert [part[:2] for part in time_parts(sample)] == [("queue", 1.0), ("compute", 2.0), ("overhead", 0.5)]


def test_a_language_answer_is_the_first_token_and_the_writing():
    sample = RouteSample(time="", route="a", output_tokens_per_s=9.0, ttft_p50_ms=150.0, p50_ms=1400.0)
    assert [part[:2] for part in time_parts(sample)] == [("first token", 150.0), ("writing", 1250.0)]


def test_nothing_is_known_before_the_first_answer():
    assert time_parts(None) == []
    assert {part[1] for part in time_parts(RouteSample(time="", route="a", output_tokens_per_s=0.0))} == {None}

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from app.monitoring.sketch import ACCURACY, Sketch

durations = st.lists(st.floats(1e-6, 1e5), min_size=1, max_size=200)
TOLERANCE = ACCURACY * 1.0001  # for the rounding of logarithms


def filled(values: list[float]) -> Sketch:
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    return sketch


@given(durations, st.floats(0, 1))
def test_a_quantile_is_within_one_percent_of_the_value_of_its_rank(values: list[float], q: float) -> None:
    exact = sorted(values)[math.floor(q * (len(values) - 1))]
    estimate = filled(values).quantile(q)
    assert estimate is not None
    assert abs(estimate - exact) <= TOLERANCE * exact


@given(durations, durations)
def test_merging_counts_as_one_sketch_would(first: list[float], second: list[float]) -> None:
    merged, whole = filled(first), filled(first + second)
    merged.merge(filled(second))
    assert merged.count == whole.count
    assert math.isclose(merged.total_s, whole.total_s)
    assert [merged.quantile(q) for q in (0, 0.5, 0.99, 1)] == [whole.quantile(q) for q in (0, 0.5, 0.99, 1)]


@given(durations, durations)
def test_the_difference_to_an_earlier_copy_is_what_came_after(first: list[float], second: list[float]) -> None:
    sketch = filled(first)
    earlier = sketch.copy()
    for value in second:
        sketch.add(value)
    later, alone = sketch.since(earlier), filled(second)
    assert later.count == alone.count
    assert [later.quantile(q) for q in (0, 0.5, 1)] == [alone.quantile(q) for q in (0, 0.5, 1)]


@given(durations)
def test_cumulative_counts_are_exact_away_from_the_bounds(values: list[float]) -> None:
    bounds = [0.001, 0.01, 0.1, 1.0, 10.0]
    values = [value for value in values if all(abs(value / bound - 1) > 2 * ACCURACY for bound in bounds)]
    assert filled(values).cumulative(bounds) == [sum(value <= bound for value in values) for bound in bounds]


def test_values_beyond_the_range_are_counted_at_its_ends() -> None:
    sketch = filled([0.0, -1.0, 1e9])
    assert sketch.count == 3
    low, high = sketch.quantile(0), sketch.quantile(1)
    assert low is not None and math.isclose(low, 1e-6, rel_tol=0.02)
    assert high is not None and math.isclose(high, 1e5, rel_tol=0.02)


def test_its_size_is_bounded() -> None:
    source = random.Random(1)
    sketch = filled([math.exp(source.uniform(-20, 20)) for _ in range(20_000)])
    assert len(sketch._counts) <= 1_300


def test_an_empty_sketch() -> None:
    sketch = Sketch()
    assert sketch.quantile(0.5) is None
    assert sketch.cumulative([1.0]) == [0]


def test_counting_one_duration_many_times() -> None:
    sketch = Sketch()
    sketch.add(0.5, 3)
    assert (sketch.count, sketch.total_s) == (3, 1.5)

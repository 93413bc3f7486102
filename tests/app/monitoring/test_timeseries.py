import msgspec
import pytest

from app.errors import InvalidInput, NotFound
from app.monitoring.timeseries import TimeSeries
from app.schema.manage import RouteSample


def sample(total: int) -> RouteSample:
    return RouteSample(time="", route="digits", requests_total=total)


def totals(series: TimeSeries, seconds: float, now_s: float) -> list[int]:
    items = series.history("route:digits", seconds, now_s)
    return [msgspec.json.decode(item, type=RouteSample).requests_total for item in items]


def test_the_last_seconds_oldest_first() -> None:
    series = TimeSeries()
    for second in range(100):
        series.append("route:digits", 1000.0 + second, sample(second))
    assert totals(series, 3, 1099.0) == [97, 98, 99]
    assert totals(series, 3600, 1099.0) == list(range(100))
    assert totals(series, 5, 1200.0) == [], "what is old is not shown as new"


def test_it_is_bounded() -> None:
    series = TimeSeries(length=10)
    for second in range(1000):
        series.append("route:digits", float(second), sample(second))
    assert totals(series, 3600, 999.0) == list(range(990, 1000))


@pytest.mark.parametrize("source", ["", "route:", "gpu"])
def test_what_is_no_source_is_refused(source: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        TimeSeries().history(source, 10, 0.0)
    assert refused.value.field == "source"


@pytest.mark.parametrize("seconds", [0, -1, 3601, float("nan")])
def test_what_is_no_length_of_time_is_refused(seconds: float) -> None:
    series = TimeSeries()
    series.append("route:digits", 0.0, sample(0))
    with pytest.raises(InvalidInput) as refused:
        series.history("route:digits", seconds, 0.0)
    assert refused.value.field == "seconds"


def test_an_unknown_route_is_not_found() -> None:
    series = TimeSeries()
    series.append("route:digits", 0.0, sample(0))
    series.forget("route:digits")
    with pytest.raises(NotFound):
        series.history("route:digits", 10, 0.0)

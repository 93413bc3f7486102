"""What a response cache counts, in the samples and on the page of metrics."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.monitoring import exposition
from app.monitoring.metrics import Metrics
from app.monitoring.sampler import _Snapshot, route_sample


@pytest.fixture
def route():
    route = Metrics().route("r", model="m", version=3, kind="tensor", engine="e")
    route.caches = True
    return route


def sample(route, before):
    return route_sample(_Snapshot(route, 1.0, before), before, before, "now", None)


def test_the_hit_rate_is_that_of_the_window_and_the_size_that_of_now(route):
    route.cache_hits, route.cache_misses = 5, 5
    before = _Snapshot(route, 0.0, None)
    route.cache_hits, route.cache_misses, route.cache_bytes = 8, 6, 1000
    found = sample(route, before)
    assert (found.cache_hit_rate, found.cache_bytes) == (0.75, 1000)
    idle = sample(route, _Snapshot(route, 0.5, None))
    assert (idle.cache_hit_rate, idle.cache_bytes) == (None, 1000)


def test_without_a_cache_there_is_nothing_to_say(route):
    route.caches = False
    before = _Snapshot(route, 0.0, None)
    route.cache_hits = 1
    found = sample(route, before)
    assert (found.cache_hit_rate, found.cache_bytes) == (None, None)


def page(*routes):
    metrics = Metrics()
    metrics._routes = {route.name: route for route in routes}
    text = exposition.text(metrics, exposition.Station("1", 1.0)).decode()
    families = text_string_to_metric_families(text)
    return {
        sample.name.replace("_per_model_total", "_per_model"): sample  # the parser adds what counters should end in
        for family in families
        for sample in family.samples
        if "_cache_" in sample.name and "prefix" not in sample.name
    }


def test_the_page_has_tritons_names_and_ours(route):
    route.cache_hits, route.cache_misses, route.cache_found, route.cache_computed = 4, 3, 9, 5
    route.cache_hit_s, route.cache_miss_s, route.cache_saved_s = 0.002, 0.5, 1.5
    route.cache_bytes, route.cache_items, route.cache_evictions, route.cache_errors = 100, 2, 1, 7
    found = page(route)
    values = {name: sample.value for name, sample in found.items()}
    assert values == {
        "nv_cache_num_hits_per_model": 4,
        "nv_cache_num_misses_per_model": 3,
        "nv_cache_hit_duration_per_model": 2000,
        "nv_cache_miss_duration_per_model": 500_000,
        "pilothouse_cache_hits_total": 4,
        "pilothouse_cache_misses_total": 3,
        "pilothouse_cache_entries_found_total": 9,
        "pilothouse_cache_entries_computed_total": 5,
        "pilothouse_cache_saved_seconds_total": 1.5,
        "pilothouse_cache_evictions_total": 1,
        "pilothouse_cache_errors_total": 7,
        "pilothouse_cache_bytes": 100,
        "pilothouse_cache_items": 2,
    }
    assert found["nv_cache_num_hits_per_model"].labels == {"model": "r", "version": "3"}
    assert found["pilothouse_cache_hits_total"].labels == {"route": "r", "model": "m", "version": "3", "engine": "e"}


def test_routes_without_a_cache_are_not_on_it(route):
    route.caches = False
    assert page(route) == {}

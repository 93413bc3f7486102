import json
import time
from math import isnan

from pytestqt.qtbot import QtBot

from tests.support import fake_daemon as fake
from ui.sse import Event
from ui.stores.catalog import download_of
from ui.stores.marks import Marks
from ui.stores.series import LIMIT, Columns, SeriesStore, across
from ui.stores.station import Station

NOW = time.time()


def snapshot(**kinds: object) -> Event:
    return Event("snapshot", json.dumps({"state": kinds}), "1")


def change(kind: str, key: str, value: object) -> Event:
    return Event("change", json.dumps({"kind": kind, "key": key, "value": value}), "2")


def test_a_snapshot_replaces_everything(qtbot: QtBot) -> None:
    station = Station()
    station.apply(snapshot(deployment=fake.deployments(NOW), model=fake.models(NOW)))
    with qtbot.waitSignal(station.replaced):
        station.apply(snapshot(deployment={"digits": fake.deployments(NOW)["digits"]}))
    assert list(station.deployments) == ["digits"]
    assert station.deployments["digits"].labels[3] == "3"
    assert station.models == {}
    assert station.loaded


def test_a_change_sets_one_value_and_null_removes_it(qtbot: QtBot) -> None:
    station = Station()
    with qtbot.waitSignal(station.changed) as blocker:
        station.apply(change("job", "j1", fake.jobs(NOW)["j1"]))
    assert blocker.args == ["job", "j1"]
    assert station.jobs["j1"].progress == 0.62
    station.apply(change("job", "j1", None))
    assert station.jobs == {}


def test_kinds_of_a_newer_daemon_are_passed_over() -> None:
    station = Station()
    station.apply(change("rollout", "digits", {"step": 1}))
    station.apply(snapshot(rollout={"digits": {"step": 1}}))
    assert station.deployments == {}


def test_jobs_are_newest_first() -> None:
    station = Station()
    station.apply(snapshot(job=fake.jobs(NOW)))
    assert list(station.jobs) == ["j1", "j2", "j0"]


def test_columns_keep_missing_readings_as_nan_and_take_no_time_twice() -> None:
    columns = Columns()
    columns.append(1.0, {"a": 5.0})
    columns.append(2.0, {"a": None, "b": 7.0})
    columns.append(2.0, {"a": 9.0})
    assert list(columns.times) == [1.0, 2.0]
    assert columns.column("a")[0] == 5.0
    assert isnan(columns.column("a")[1])
    assert isnan(columns.column("b")[0])
    assert columns.column("b")[1] == 7.0


def test_columns_are_bounded() -> None:
    columns = Columns()
    for second in range(LIMIT + 200):
        columns.append(float(second), {"a": float(second)})
    assert LIMIT <= len(columns) <= LIMIT + 60
    assert columns.column("a")[-1] == LIMIT + 199
    assert len(columns.column("a")) == len(columns)


def test_fetched_history_goes_under_live_readings() -> None:
    series = SeriesStore()
    series.apply(change("metrics", "digits", fake.metrics("digits", NOW)))
    series.apply(change("metrics", "digits", fake.metrics("digits", NOW + 1)))
    series.fill("route:digits", [fake.metrics("digits", NOW - age) for age in (3, 2, 1, 0)])
    times = series.of("route:digits").times
    assert [round(moment - NOW) for moment in times] == [-3, -2, -1, 0, 1]


def test_across_adds_routes_by_time_and_leaves_gaps() -> None:
    together = across([([1.0, 2.0, 4.0], [10.0, 20.0, 40.0]), ([2.0, 4.0], [1.0, 2.0])], sum)
    assert together[:2] == [10.0, 21.0]
    assert isnan(together[2])
    assert together[3] == 42.0


def test_marks_tell_of_becoming_ready_and_of_restarts() -> None:
    marks = Marks()
    deployment = fake.deployments(NOW)["digits"]
    marks.apply(change("deployment", "digits", deployment | {"state": "starting"}))
    marks.apply(change("deployment", "digits", deployment))
    marks.apply(change("deployment", "digits", deployment))
    replica = deployment["replicas"][0] | {"restarts": 1}
    marks.apply(change("deployment", "digits", deployment | {"replicas": [replica]}))
    assert [mark.words for mark in marks.of("digits")] == ["v1 ready", "restarted"]


def test_the_download_of_a_model_is_found_by_its_name_or_source() -> None:
    station = Station()
    job = fake.jobs(NOW)["j1"]
    station.apply(change("job", "j1", job | {"spec": {"ref": "hf:Qwen/Qwen3-8B-GGUF"}}))
    found = download_of("qwen3-8b", ["hf:Qwen/Qwen3-8B-GGUF"], station)
    assert found is not None and found.id == "j1"
    station.apply(change("job", "j1", job | {"state": "succeeded"}))
    assert download_of("qwen3-8b", [], station) is None

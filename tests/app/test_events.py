"""The bus: a snapshot, then changes, resumed by id."""

from app.events import HISTORY, Bus
from app.schema.manage import Change, Snapshot


async def test_a_subscriber_gets_a_snapshot_and_then_each_change():
    bus = Bus()
    bus.publish("job", "a", 1)
    stream = bus.subscribe()
    _, first = await anext(stream)
    assert first == Snapshot(state={"job": {"a": 1}})
    bus.publish("job", "b", 2)
    bus.publish("job", "a", None)
    assert (await anext(stream))[1] == Change(kind="job", key="b", value=2)
    assert (await anext(stream))[1] == Change(kind="job", key="a", value=None)
    await stream.aclose()


async def test_a_known_id_resumes_without_a_snapshot():
    bus = Bus()
    bus.publish("job", "a", 1)
    seen = bus.last_id
    bus.publish("job", "b", 2)
    stream = bus.subscribe(seen)
    assert (await anext(stream))[1] == Change(kind="job", key="b", value=2)
    await stream.aclose()


async def test_an_id_of_another_daemon_or_one_too_old_gets_a_snapshot():
    bus = Bus()
    for number in range(HISTORY + 10):
        bus.publish("job", "a", number)
    for unknown in (3, 60, bus.last_id + 1000, bus.last_id - HISTORY - 5):
        stream = bus.subscribe(unknown)
        assert isinstance((await anext(stream))[1], Snapshot)
        await stream.aclose()

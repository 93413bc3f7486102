"""The runner with handlers that wait for the test: no sleeping, every step decided here."""

import asyncio
from typing import Any

import pytest

from app.errors import Conflict, InsufficientDisk, InvalidInput, JobNotFound
from app.jobs import runner
from app.jobs.runner import Jobs
from app.schema.manage import DownloadRequest, RuntimeRequest
from app.settings import Settings


class Scripted:
    """Runs until the test puts a result or an error for the reference in."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[Any] = asyncio.Queue()
        self.outcomes: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.here: dict[str, dict[str, Any]] = {}
        self.discarded: list[str] = []
        self.interrupted: list[str] = []

    def title(self, spec):
        if spec["ref"] == "nonsense":
            raise InvalidInput("nonsense is not a reference")
        return f"Get {spec['ref']}"

    def already(self, spec):
        return self.here.get(spec["ref"])

    async def run(self, context):
        future = self.outcomes[context.spec["ref"]] = asyncio.get_running_loop().create_future()
        await self.started.put(context)
        try:
            return await future
        except asyncio.CancelledError:
            self.interrupted.append(context.spec["ref"])
            raise

    async def discard(self, job_id):
        self.discarded.append(job_id)


def request(ref: str) -> DownloadRequest:
    return DownloadRequest(ref=ref)


@pytest.fixture
def handler():
    return Scripted()


@pytest.fixture
async def jobs(store, bus, data, handler):
    jobs = Jobs(store, bus, Settings(parallel_jobs=2), data.logs, {"download": handler})
    await jobs.start()
    yield jobs
    await jobs.stop()


async def again(store, bus, data, handler) -> Jobs:
    """As the next daemon sees it."""
    jobs = Jobs(store, bus, Settings(parallel_jobs=2), data.logs, {"download": handler})
    await jobs.start()
    return jobs


async def test_a_job_runs_and_its_result_stays(jobs, handler, store, bus, data):
    job = await jobs.submit(request("a"))
    assert job.state == "queued"
    context = await handler.started.get()
    assert jobs.get(job.id).state == "running"
    context.log("hello")
    handler.outcomes["a"].set_result({"model": "a"})
    done = await jobs.wait(job.id)
    assert (done.state, done.progress, done.result) == ("succeeded", 1.0, {"model": "a"})
    assert bus.state["job"][job.id].state == "succeeded"
    assert "hello" in jobs.log(job.id)
    assert handler.discarded == [job.id]
    assert (await again(store, bus, data, handler)).get(job.id) == done


async def test_the_same_unfinished_request_is_the_same_job(jobs, handler):
    first = await jobs.submit(request("a"))
    assert (await jobs.submit(request("a"))).id == first.id
    assert (await jobs.submit(request("b"))).id != first.id
    assert len(jobs.list().items) == 2


async def test_what_is_here_already_succeeds_at_once(jobs, handler):
    handler.here["a"] = {"model": "a"}
    job = await jobs.submit(request("a"))
    assert (job.state, job.result) == ("succeeded", {"model": "a"})
    assert handler.started.empty()


async def test_requests_that_cannot_be_meant_make_no_job(jobs):
    with pytest.raises(InvalidInput, match="nonsense"):
        await jobs.submit(request("nonsense"))
    with pytest.raises(InvalidInput, match="'runtime' cannot be run"):
        await jobs.submit(RuntimeRequest(runtime="x"))
    assert jobs.list().items == []


async def test_only_so_many_run_at_once_and_the_oldest_go_first(jobs, handler):
    ids = [(await jobs.submit(request(ref))).id for ref in "abc"]
    assert {(await handler.started.get()).spec["ref"], (await handler.started.get()).spec["ref"]} == {"a", "b"}
    assert [jobs.get(job_id).state for job_id in ids] == ["running", "running", "queued"]
    handler.outcomes["a"].set_result({})
    assert (await handler.started.get()).spec["ref"] == "c"


async def test_pause_stops_the_work_and_resume_goes_on(jobs, handler):
    job = await jobs.submit(request("a"))
    await handler.started.get()
    assert (await jobs.pause(job.id)).state == "paused"
    assert handler.interrupted == ["a"]
    assert handler.discarded == []
    with pytest.raises(Conflict):
        await jobs.pause(job.id)
    assert (await jobs.resume(job.id)).state in ("queued", "running")
    await handler.started.get()
    handler.outcomes["a"].set_result({})
    assert (await jobs.wait(job.id)).state == "succeeded"


@pytest.mark.parametrize("when", ["queued", "running", "paused"])
async def test_cancel_from_wherever_it_is_discards_what_was_fetched(jobs, handler, when):
    if when == "queued":
        for ref in "xy":
            await jobs.submit(request(ref))
            await handler.started.get()
    job = await jobs.submit(request("a"))
    if when != "queued":
        await handler.started.get()
    if when == "paused":
        await jobs.pause(job.id)
    assert (await jobs.cancel(job.id)).state == "cancelled"
    assert handler.discarded == [job.id]
    assert (await jobs.wait(job.id)).state == "cancelled"
    with pytest.raises(Conflict):
        await jobs.resume(job.id)


async def test_interrupting_before_the_work_began(jobs, handler):
    job = await jobs.submit(request("a"))  # its task has not had a turn yet
    assert (await jobs.pause(job.id)).state == "paused"
    assert handler.started.empty()


async def test_cancelling_wins_over_a_pause_that_is_under_way(jobs, handler):
    job = await jobs.submit(request("a"))
    await handler.started.get()
    await asyncio.gather(jobs.pause(job.id), jobs.cancel(job.id))
    assert jobs.get(job.id).state == "cancelled"


async def test_a_failure_says_what_to_do_and_can_be_resumed(jobs, handler):
    job = await jobs.submit(request("a"))
    await handler.started.get()
    handler.outcomes["a"].set_exception(InsufficientDisk("no room", hint="make room", details={"needed_bytes": 5}))
    failed = await jobs.wait(job.id)
    assert failed.state == "failed"
    assert failed.error.code == "insufficient_disk"
    assert (failed.error.hint, failed.error.details) == ("make room", {"needed_bytes": 5})
    assert handler.discarded == []  # what it has is kept
    assert "no room" in jobs.log(job.id)
    resumed = await jobs.submit(request("a"))
    assert resumed.id == job.id
    assert resumed.error is None
    await handler.started.get()
    handler.outcomes["a"].set_result({})
    assert (await jobs.wait(job.id)).state == "succeeded"


async def test_a_bug_fails_the_job_and_not_the_daemon(jobs, handler):
    job = await jobs.submit(request("a"))
    await handler.started.get()
    handler.outcomes["a"].set_exception(ZeroDivisionError("oops"))
    assert (await jobs.wait(job.id)).error.code == "internal"
    other = await jobs.submit(request("b"))
    await handler.started.get()
    handler.outcomes["b"].set_result({})
    assert (await jobs.wait(other.id)).state == "succeeded"


async def test_the_next_daemon_goes_on(jobs, handler, store, bus, data):
    running = await jobs.submit(request("a"))
    await handler.started.get()
    paused = await jobs.submit(request("b"))
    await jobs.pause(paused.id)
    await jobs.stop()
    assert jobs.get(running.id).state == "queued"
    later = await again(store, bus, data, handler)
    while (await handler.started.get()).spec["ref"] != "a":
        pass
    assert later.get(running.id).state == "running"
    assert later.get(paused.id).state == "paused"
    await later.stop()


async def test_a_killed_daemon_leaves_running_jobs_that_run_again(jobs, handler, store, bus, data):
    job = await jobs.submit(request("a"))
    await handler.started.get()
    killed_state = store.run_sync(lambda db: db.table("jobs").get(job.id)["state"])
    assert killed_state == "running"
    later = await again(store, bus, data, handler)  # without a stop of the first
    assert (await handler.started.get()).id == job.id
    assert "the daemon ended" in later.log(job.id)
    await later.stop()


async def test_progress_is_published_at_five_hertz_and_never_written(jobs, handler, store, bus):
    job = await jobs.submit(request("a"))
    context = await handler.started.get()
    before = bus.last_id
    for step in range(1000):
        context.report(step / 1000, f"step {step}", done_bytes=step, total_bytes=1000)
    assert bus.last_id - before <= 1
    assert jobs.get(job.id).message == "step 999"
    changes = bus.subscribe(bus.last_id)
    _, change = await anext(changes)  # the last word comes by itself
    assert (change.key, change.value.message, change.value.done_bytes) == (job.id, "step 999", 999)
    await changes.aclose()
    assert "step" not in store.run_sync(lambda db: db.table("jobs").get(job.id)["job"])


async def test_lists_are_paged_newest_first(jobs, handler):
    handler.here = {str(number): {} for number in range(5)}
    ids = [(await jobs.submit(request(str(number)))).id for number in range(5)]
    first = jobs.list(limit=2)
    second = jobs.list(limit=3, cursor=first.next_cursor)
    assert sorted(job.id for job in first.items + second.items) == sorted(ids)
    assert [job.id for job in first.items + second.items] == sorted(ids, reverse=True)
    assert second.next_cursor is None


async def test_old_finished_jobs_are_forgotten(jobs, handler, bus, store, data, monkeypatch):
    monkeypatch.setattr(runner, "KEPT", 3)
    handler.here = {str(number): {} for number in range(6)}
    ids = sorted([(await jobs.submit(request(str(number)))).id for number in range(6)])
    assert sorted(job.id for job in jobs.list().items) == ids[-3:]
    assert set(bus.state["job"]) == set(ids[-3:])
    assert store.run_sync(lambda db: db.table("jobs").count) == 3
    with pytest.raises(JobNotFound):
        jobs.get(ids[0])


async def test_a_log_keeps_its_newest_part(tmp_path):
    log = runner.JobLog(tmp_path / "log", limit_bytes=1000)
    for number in range(200):
        log.write(f"line {number}")
    text = log.read()
    assert len(text) <= 1000
    assert "line 199" in text
    assert "line 0\n" not in text
    assert text.startswith("(older lines were dropped)\n")

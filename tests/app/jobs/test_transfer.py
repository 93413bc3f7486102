"""The transfer against a real server that drops, lies, changes and stalls."""

import random
from collections import namedtuple

import pytest

from app.errors import ArtifactCorrupt, InsufficientDisk, SourceUnreachable
from app.jobs import transfer
from app.jobs.transfer import Client, Policy, side_file
from app.registry.sources.plan import Remote

KIB = 1024
CONTENT = random.Random(7).randbytes(200 * KIB + 123)
POLICY = Policy(connections=3, chunk_bytes=32 * KIB, attempts=3, backoff_s=0.01, stall_s=5, checkpoint_s=0.02)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "job" / "0.part"


@pytest.fixture
def remote(server):
    server.files["/model.bin"] = CONTENT
    return Remote(f"{server.url}/model.bin", "model.bin")


async def fetch(remote, target, policy=POLICY, headers=lambda remote: {}):
    counts = []
    async with Client(policy, headers) as client:
        await client.fetch(remote, target, counts.append)
    return counts


async def test_ranges_in_parallel_make_the_whole_file(server, remote, target):
    counts = await fetch(remote, target)
    assert target.read_bytes() == CONTENT
    assert counts[0] == 0
    assert counts[-1] == len(CONTENT)
    assert counts == sorted(counts)
    assert len({entry.range for entry in server.seen}) == 1 + 7
    assert server.sent_bytes == len(CONTENT) + 1  # the probe asks for one byte


async def test_dropped_connections_go_on_where_they_stopped(server, remote, target):
    server.drops = [10 * KIB, 20 * KIB, 1, 5 * KIB]
    await fetch(remote, target)
    assert target.read_bytes() == CONTENT
    assert server.sent_bytes == len(CONTENT) + 1


async def test_answers_of_a_busy_server_are_waited_out(server, remote, target):
    server.failures = [503, 429]
    with pytest.raises(SourceUnreachable, match="429"):  # asking is not repeated for long: there may be a mirror
        await fetch(remote, target)
    await fetch(remote, target)
    assert target.read_bytes() == CONTENT


async def test_a_server_that_gives_nothing_more_is_given_up_and_what_is_here_stays(server, remote, target):
    server.drops = [16 * KIB] * 3 + [0] * 60
    with pytest.raises(SourceUnreachable, match=r"does not deliver model\.bin"):
        await fetch(remote, target)
    before = server.sent_bytes
    server.drops = []
    counts = await fetch(remote, target)
    assert target.read_bytes() == CONTENT
    assert counts[0] == 3 * 16 * KIB
    assert server.sent_bytes - before == len(CONTENT) - 3 * 16 * KIB


async def test_a_finished_file_is_not_asked_for_again(server, remote, target):
    await fetch(remote, target)
    server.seen.clear()
    assert await fetch(remote, target) == [len(CONTENT)]
    assert server.seen == []


@pytest.mark.parametrize("etags", [True, False])
async def test_without_ranges_it_is_one_stream(server, remote, target, etags):
    server.ranges, server.etags = False, etags
    server.drops = [100, 50 * KIB]
    await fetch(remote, target)
    assert target.read_bytes() == CONTENT
    server.seen.clear()
    await fetch(remote, target)
    assert server.seen == []


@pytest.mark.parametrize("if_range", [True, False])
async def test_a_file_that_changed_between_two_tries_is_begun_again(server, remote, target, if_range):
    server.drops = [16 * KIB] * 3 + [0] * 60
    with pytest.raises(SourceUnreachable):
        await fetch(remote, target)
    server.drops, server.if_range = [], if_range
    other = server.files["/model.bin"] = random.Random(8).randbytes(len(CONTENT))
    await fetch(remote, target)
    assert target.read_bytes() == other


async def test_a_file_of_another_size_is_refused(server, remote, target):
    with pytest.raises(ArtifactCorrupt, match="should have 5"):
        await fetch(Remote(remote.url, "model.bin", size_bytes=5), target)


async def test_what_is_not_there_is_said_at_once(server, remote, target):
    with pytest.raises(SourceUnreachable, match=r"has no gone\.bin: 404"):
        await fetch(Remote(f"{server.url}/gone.bin", "gone.bin"), target)
    assert len(server.seen) == 1


async def test_a_silent_server_is_given_up(server, remote, target):
    server.budget_bytes = 1  # the probe is answered, nothing after
    with pytest.raises(SourceUnreachable, match="does not deliver"):
        await fetch(remote, target, Policy(connections=1, attempts=2, backoff_s=0.01, stall_s=0.2))


async def test_nobody_at_home(target, unused_tcp_port):
    with pytest.raises(SourceUnreachable, match=r"127\.0\.0\.1 does not deliver"):
        await fetch(Remote(f"http://127.0.0.1:{unused_tcp_port}/x", "x"), target)


async def test_an_empty_file(server, target):
    server.files["/empty"] = b""
    await fetch(Remote(f"{server.url}/empty", "empty"), target)
    assert target.read_bytes() == b""


async def test_headers_go_to_their_server_and_not_to_where_it_sends_us(server, remote, target):
    server.redirects["/start"] = remote.url.replace("127.0.0.1", "localhost")
    await fetch(
        Remote(f"{server.url}/start", "model.bin"), target, headers=lambda _: {"authorization": "Bearer secret"}
    )
    assert target.read_bytes() == CONTENT
    assert all(("authorization" in entry.headers) == (entry.path == "/start") for entry in server.seen)


async def test_a_damaged_side_file_costs_a_new_start_and_no_more(server, remote, target):
    await fetch(remote, target)
    side_file(target).write_text("{")
    await fetch(remote, target)
    assert target.read_bytes() == CONTENT


async def test_a_local_file_is_copied(tmp_path, target):
    source = tmp_path / "a b#ü.onnx"
    source.write_bytes(CONTENT)
    counts = await fetch(Remote(source.as_uri(), source.name), target)
    assert target.read_bytes() == source.read_bytes() == CONTENT
    assert counts[-1] == len(CONTENT)


def test_the_disk_is_asked_first(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage(10**12, 10**12 - 10**9, 10**9))
    transfer.require_disk(tmp_path, 9 * 10**8)
    with pytest.raises(InsufficientDisk, match=r"needs 5,000,000,000 bytes and 1,000,000,000 are free") as caught:
        transfer.require_disk(tmp_path, 5 * 10**9)
    assert caught.value.details == {"needed_bytes": 5 * 10**9, "free_bytes": 10**9}

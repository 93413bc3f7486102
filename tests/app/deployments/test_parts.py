"""Adapters, projectors and drafts of a deployment, with a real registry."""

import pytest

from app.deployments import parts
from app.errors import ArtifactCorrupt, InvalidInput, ModelNotFound
from app.schema.manage import DeploymentSpec


@pytest.fixture
def add(registry, tmp_path):
    """Registers a model whose files are ``name.gguf`` and ``beside``; ``metadata`` is what its header would tell."""

    async def add(name, *, format="gguf", beside=(), **metadata):
        files = []
        for path in (f"{name}.{format}", *beside):
            (tmp_path / path).write_bytes(f"{name} {path} {metadata}".encode())
            files.append((path, tmp_path / path))
        return await registry.add_version(
            name, task="t", files=files, format=format, precision=None, source="test", metadata=metadata
        )

    return add


@pytest.fixture
async def zoo(add):
    """A base model with a projector beside it, and what may be joined to it."""
    base = await add("base", beside=["mmproj-base.gguf"], architecture="llama")
    await add("pirate", part="lora", architecture="llama")
    await add("eyes", part="projector", architecture="clip")
    await add("small", architecture="llama")
    await add("stranger", part="lora", architecture="qwen3")
    await add("net", format="onnx")
    return base


def spec(**fields):
    return DeploymentSpec(model="base", version=1, **fields)


async def test_references_are_pinned_to_versions(registry, zoo, add):
    await add("pirate", part="lora", architecture="llama", more=True)
    given = spec(adapters={"one": "pirate@1", "two": "pirate"}, projector="eyes", draft="small")
    checked = parts.check(registry, given, zoo)
    assert checked.adapters == {"one": "pirate@1", "two": "pirate@2"}
    assert (checked.projector, checked.draft) == ("eyes@1", "small@1")
    assert parts.references(checked) == ["pirate@1", "pirate@2", "eyes@1", "small@1"]
    assert parts.check(registry, checked, zoo) == checked


async def test_files_are_found_under_the_names_that_engines_know(registry, zoo):
    given = spec(adapters={"one": "pirate"}, projector="eyes", draft="small")
    files = parts.files(registry, parts.check(registry, given, zoo))
    assert files == {
        "adapter:one": str(registry.path("pirate", 1)),
        "projector": str(registry.path("eyes", 1)),
        "draft": str(registry.path("small", 1)),
    }


async def test_the_projector_that_came_with_the_model_is_the_default(registry, zoo):
    beside = registry.path("base", 1).with_name("mmproj-base.gguf")
    assert parts.files(registry, spec()) == {"projector": str(beside)} and beside.exists()
    assert parts.files(registry, parts.check(registry, spec(projector=""), zoo)) == {}
    assert parts.files(registry, DeploymentSpec(model="small", version=1)) == {}


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"adapters": {"a": "nobody"}}, "adapters.a", "no model named 'nobody'"),
        ({"adapters": {"a": "pirate@7"}}, "adapters.a", "no version 7"),
        ({"adapters": {"a": "pirate@x"}}, "adapters.a", "'x' is not a version"),
        ({"adapters": {"a": "small"}}, "adapters.a", "small@1 is a model, and a LoRA adapter is needed"),
        ({"adapters": {"a": "net"}}, "adapters.a", "is onnx"),
        ({"adapters": {"a": "stranger"}}, "adapters.a", "of a qwen3 model, and this is llama"),
        ({"adapters": {"a:b": "pirate"}}, "adapters.a:b", "cannot be the name of an adapter"),
        ({"adapters": {"latest": "pirate"}}, "adapters.latest", "without an adapter"),
        ({"projector": "pirate"}, "projector", "is a LoRA adapter, and a multimodal projector is needed"),
        ({"draft": "eyes"}, "draft", "is a multimodal projector, and a model is needed"),
        ({"settings": {"speculative": "draft"}}, "settings.speculative", "no draft model"),
    ],
)
async def test_what_cannot_be_names_the_field(registry, zoo, fields, field, said):
    with pytest.raises((InvalidInput, ModelNotFound), match=said) as caught:
        parts.check(registry, spec(**fields), zoo)
    assert caught.value.field == field


@pytest.mark.parametrize(("name", "remedy"), [("pirate", "--adapter NAME=pirate"), ("eyes", "--projector eyes")])
async def test_a_part_is_not_served_alone(registry, zoo, name, remedy):
    _, version = registry.resolve(name)
    with pytest.raises(InvalidInput, match="serves nothing alone") as caught:
        parts.check(registry, DeploymentSpec(model=name, version=1), version)
    assert caught.value.field == "model" and remedy in caught.value.hint


async def test_a_tensor_model_takes_no_parts(registry, zoo):
    _, version = registry.resolve("net")
    with pytest.raises(InvalidInput, match="takes no draft") as caught:
        parts.check(registry, DeploymentSpec(model="net", version=1, draft="small"), version)
    assert caught.value.field == "draft"


async def test_a_part_that_has_gone_from_the_disk_is_named(registry, zoo):
    checked = parts.check(registry, spec(adapters={"a": "pirate"}), zoo)
    registry.path("pirate", 1).unlink()
    with pytest.raises(ArtifactCorrupt, match="pirate@1"):
        parts.files(registry, checked)

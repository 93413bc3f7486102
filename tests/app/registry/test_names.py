import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import InvalidInput
from app.registry.names import check_name, check_path, split_reference, suggest_name


@pytest.mark.parametrize("name", ["digits", "gemma-3-270m", "Qwen3_0.6B", "a", "7", "x" * 96])
def test_names_that_are_allowed(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "a\\b", "-a", "a-", ".a", "a..b", "a b", "ä", "a@2", "x" * 97, "con", "NUL.txt", "a\n"],
)
def test_names_that_are_not(name):
    with pytest.raises(InvalidInput):
        check_name(name)


@pytest.mark.parametrize("path", ["model.onnx", "onnx/model.onnx", "a b (1).gguf"])
def test_paths_that_are_allowed(path):
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../x", "a//b", "./a", "a/", "C:\\x", "c:x", ".hidden", "a/nul", "a\0b"]
)
def test_paths_that_are_not(path):
    with pytest.raises(InvalidInput):
        check_path(path)


@given(st.text())
@example("con")
@example("..")
def test_a_suggested_name_is_always_allowed(text):
    assert check_name(suggest_name(text))


@pytest.mark.parametrize(("reference", "parts"), [("a", ("a", None)), ("a@3", ("a", 3)), ("a@latest", ("a", None))])
def test_references(reference, parts):
    assert split_reference(reference) == parts


def test_a_version_is_a_number():
    with pytest.raises(InvalidInput, match="'newest' is not a version"):
        split_reference("a@newest")

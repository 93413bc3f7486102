import hashlib
from pathlib import Path

import pytest

from app.errors import ArtifactCorrupt
from app.registry import artifacts
from app.registry.artifacts import Artifacts


@pytest.fixture
def blobs(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts")


def file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "finished"
    path.write_bytes(content)
    return path


def test_adopt_moves_the_file_to_the_place_its_digest_says(blobs, tmp_path):
    source = file(tmp_path, b"weights")
    digest = blobs.adopt(source)
    assert digest == "sha256:" + hashlib.sha256(b"weights").hexdigest()
    assert blobs.path(digest).read_bytes() == b"weights"
    assert not source.exists()
    assert [path.name for path in blobs.root.rglob("*") if path.is_file()] == [digest.removeprefix("sha256:")]


def test_adopt_can_keep_the_file_and_adopts_twice_as_once(blobs, tmp_path):
    source = file(tmp_path, b"weights")
    assert blobs.adopt(source, keep=True) == blobs.adopt(source)
    assert not source.exists()


@pytest.mark.parametrize("prefix", ["", "sha256:"])
def test_adopt_accepts_the_expected_digest_in_both_spellings(blobs, tmp_path, prefix):
    assert blobs.adopt(file(tmp_path, b"weights"), prefix + hashlib.sha256(b"weights").hexdigest().upper())


def test_a_damaged_file_stays_out(blobs, tmp_path):
    with pytest.raises(ArtifactCorrupt, match="is damaged"):
        blobs.adopt(file(tmp_path, b"weights"), "0" * 64)
    assert not blobs.root.exists()


def test_without_hard_links_the_blob_is_a_copy(blobs, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no links on this file system")

    monkeypatch.setattr(artifacts.os, "link", refuse)
    source = file(tmp_path, b"weights")
    assert blobs.path(blobs.adopt(source)).read_bytes() == b"weights"
    assert not source.exists()


def test_remove_unreferenced_keeps_what_is_referenced_and_says_what_it_freed(blobs, tmp_path):
    kept, gone = (blobs.adopt(file(tmp_path, content)) for content in (b"kept", b"gone!"))
    leftover = blobs.path(gone).with_name(".half-copied")
    leftover.write_bytes(b"xyz")
    assert blobs.remove_unreferenced({kept}) == len(b"gone!") + 3
    assert blobs.path(kept).exists()
    assert not blobs.path(gone).exists()
    assert not leftover.exists()


@pytest.mark.parametrize("digest", ["sha256:../../etc/passwd", "md5:" + "0" * 32, "sha256:" + "A" * 64, ""])
def test_only_digests_become_paths(blobs, digest):
    with pytest.raises(ValueError, match="not a digest"):
        blobs.path(digest)

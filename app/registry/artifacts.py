"""The content-addressed store: one file per digest, whole or not there at all."""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from app.errors import ArtifactCorrupt

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_BLOCK_BYTES = 1 << 20


def digest_of(path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> str:
    """``sha256:…`` of a file; ``on_bytes`` hears of every block, and may raise to stop. Blocks."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            sha.update(block)
            on_bytes(len(block))
    return f"sha256:{sha.hexdigest()}"


def as_digest(sha256: str) -> str:
    """``sha256:…`` from a digest written with or without its prefix."""
    return sha256.lower() if sha256.lower().startswith("sha256:") else f"sha256:{sha256.lower()}"


def flush(path: Path) -> None:
    """Force a file, or on POSIX the entries of a folder, to the disk. Windows cannot open a folder: there the
    journal of the file system keeps the order."""
    if path.is_dir() and os.name == "nt":
        return
    # Windows flushes only through a handle that may write; a folder opens only for reading.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system offers one, a copy elsewhere; ``target`` appears whole. Blocks."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)
            flush(partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)  # POSIX rename does nothing between two links of one file


class Artifacts:
    """Blobs under ``root/sha256/ab/abcdef…``. Every method blocks."""

    def __init__(self, root: Path):
        self.root = root

    def path(self, digest: str) -> Path:
        """Where the blob of ``digest`` lies, if it is here."""
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"not a digest: {digest!r}")
        name = digest.removeprefix("sha256:")
        return self.root / "sha256" / name[:2] / name

    def adopt(self, path: Path, expected_sha256: str | None = None, *, keep: bool = False) -> str:
        """Move a finished file in and return its digest. With ``keep`` the file stays where it is too (a hard
        link), so that whoever made it can make it known first and tidy up later.

        Raises `ArtifactCorrupt` if the digest is not ``expected_sha256``; the store is then unchanged.
        """
        digest = digest_of(path)
        if expected_sha256 is not None and digest != as_digest(expected_sha256):
            raise ArtifactCorrupt(
                f"{path.name} is damaged: its digest is {digest}, not {as_digest(expected_sha256)}",
                hint="fetch it again; if it stays so, the source offers another file than it says",
            )
        blob = self.path(digest)
        if not blob.exists():
            flush(path)
            link_or_copy(path, blob)
            flush(blob.parent)
        if not keep:
            path.unlink()
        return digest

    def remove_unreferenced(self, referenced: set[str]) -> int:
        """Delete every blob whose digest is not in ``referenced``, and leftovers of interrupted copies.
        Returns the bytes freed."""
        wanted = {self.path(digest) for digest in referenced}
        freed_bytes = 0
        for blob in (self.root / "sha256").glob("*/*"):
            if blob not in wanted:
                with contextlib.suppress(OSError):  # open in a worker on Windows: it goes at the next start
                    size_bytes = blob.stat().st_size
                    blob.unlink()
                    freed_bytes += size_bytes
        return freed_bytes

"""The saved states of slots: in host memory while the model is loaded, in files between two loads.

What is kept and dropped is `KvSlots`' decision; this only holds the bytes. A file is ``magic | SHA-256 of all that
follows | u32 header bytes | header (JSON) | tokens (int64) | state``, little-endian. It is read when its state is
asked for first, and believed only where its digest is right and its fingerprint is that of the model now loaded.
"""

import contextlib
import hashlib
import os
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import numpy as np

from engines.llamacpp.kv_slots import Prefix

MAGIC = b"PHSTATE1"
SUFFIX = ".state"
_DIGEST_BYTES = 32
_LENGTH = struct.Struct("<I")
_PREAMBLE_BYTES = len(MAGIC) + _DIGEST_BYTES + _LENGTH.size
#: A header that claims more is not one of ours.
_MAX_HEADER_BYTES = 1 << 16


class _Header(msgspec.Struct):
    fingerprint: str
    group: str
    tokens: int
    state_bytes: int


class PrefixStore:
    """States are uint8 arrays. Not safe to share between threads."""

    def __init__(self) -> None:
        self._states: dict[int, np.ndarray] = {}
        self._files: dict[int, Path] = {}
        """Where states are written, some of which were not yet asked for since the load."""

    def __len__(self) -> int:
        return len(self._states.keys() | self._files.keys())

    def put(self, key: int, state: np.ndarray) -> None:
        self._states[key] = state
        self._files.pop(key, None)

    def get(self, key: int) -> np.ndarray | None:
        """None where its file has gone or is not what was written."""
        if key not in self._states and (path := self._files.get(key)):
            state = _read_state(path)
            if state is None:
                del self._files[key]
            else:
                self._states[key] = state
        return self._states.get(key)

    def drop(self, keys: Iterable[int]) -> None:
        for key in keys:
            self._states.pop(key, None)
            self._files.pop(key, None)

    def save(self, folder: Path, fingerprint: str, prefixes: Iterable[Prefix]) -> int:
        """Make the files in ``folder`` those of ``prefixes`` (the least recently used first); the bytes they have.

        ``fingerprint`` says for what the states are good: the model's digest, the adapters' digests, the engine's
        version, the types of the cache. A state that cannot be written (a full disk) is left out.
        """
        total = 0
        kept: set[Path] = set()
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        now_ns = time.time_ns()
        for order, prefix in enumerate(prefixes):
            path = folder / _name(fingerprint, prefix)
            try:
                if self._files.get(prefix.key) != path or not path.exists():
                    state = self.get(prefix.key)
                    if state is None:
                        continue
                    _write(path, fingerprint, prefix, state)
                    self._files[prefix.key] = path
                # The files' times keep the order of use, and distinct on file systems that count in 100 ns.
                os.utime(path, ns=(now_ns + 1000 * order, now_ns + 1000 * order))
                total += path.stat().st_size
                kept.add(path)
            except OSError:
                continue
        for path in _files(folder):
            if path not in kept:
                _remove(path)
        return total

    def load(self, folder: Path, fingerprint: str, adopt: Callable[[str, list[int], int], int | None]) -> int:
        """Offer what an earlier load left in ``folder`` to ``adopt`` (`KvSlots.adopt`), the most recently used first;
        how many it took. Files that are damaged, foreign or not taken are removed."""
        count = 0
        for path in sorted(_files(folder), key=_time_ns, reverse=True):
            key = None
            if found := _read_prefix(path, fingerprint):
                key = adopt(*found)
            if key is None:
                _remove(path)
            else:
                self._files[key] = path
                count += 1
        return count


def _files(folder: Path) -> list[Path]:
    """All that may be ours: a folder that someone else uses too keeps its other files."""
    try:
        return [path for path in folder.iterdir() if path.name.endswith((SUFFIX, SUFFIX + ".part"))]
    except OSError:
        return []


def _time_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _view(array: np.ndarray) -> memoryview:
    return memoryview(array)  # type: ignore[arg-type]  # the stubs know buffers from Python 3.12 on


def _name(fingerprint: str, prefix: Prefix) -> str:
    tokens = np.array(prefix.tokens, "<i8").tobytes()
    return hashlib.sha256(msgspec.json.encode([fingerprint, prefix.group]) + tokens).hexdigest()[:32] + SUFFIX


def _write(path: Path, fingerprint: str, prefix: Prefix, state: np.ndarray) -> None:
    header = msgspec.json.encode(_Header(fingerprint, prefix.group, len(prefix.tokens), state.nbytes))
    tokens = np.array(prefix.tokens, "<i8").tobytes()
    parts: list[bytes | memoryview] = [_LENGTH.pack(len(header)), header, tokens, _view(state)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    unfinished = path.with_name(path.name + ".part")
    try:
        with unfinished.open("wb") as stream:
            for part in (MAGIC, digest.digest(), *parts):
                stream.write(part)
        unfinished.replace(path)
    except OSError:
        _remove(unfinished)
        raise


def _read_prefix(path: Path, fingerprint: str) -> tuple[str, list[int], int] | None:
    """(group, tokens, bytes of the state) of a file that looks whole and has this fingerprint."""
    try:
        with path.open("rb") as stream:
            preamble = stream.read(_PREAMBLE_BYTES)
            if len(preamble) < _PREAMBLE_BYTES or not preamble.startswith(MAGIC):
                return None
            (header_bytes,) = _LENGTH.unpack_from(preamble, _PREAMBLE_BYTES - _LENGTH.size)
            if header_bytes > _MAX_HEADER_BYTES:
                return None
            header = msgspec.json.decode(stream.read(header_bytes), type=_Header)
            size_bytes = _PREAMBLE_BYTES + header_bytes + 8 * header.tokens + header.state_bytes
            if header.fingerprint != fingerprint or path.stat().st_size != size_bytes:
                return None
            tokens = np.frombuffer(stream.read(8 * header.tokens), "<i8").tolist()
    except (OSError, ValueError):  # msgspec's errors are ValueErrors
        return None
    return header.group, tokens, header.state_bytes


def _read_state(path: Path) -> np.ndarray | None:
    """The state in ``path``, its digest checked; what is wrong is removed."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError:
        return None
    at = len(MAGIC) + _DIGEST_BYTES
    if hashlib.sha256(_view(data[at:])).digest() != data[len(MAGIC) : at].tobytes():
        _remove(path)
        return None
    (header_bytes,) = _LENGTH.unpack(data[at : at + _LENGTH.size].tobytes())
    header = msgspec.json.decode(data[_PREAMBLE_BYTES : _PREAMBLE_BYTES + header_bytes].tobytes(), type=_Header)
    return data[_PREAMBLE_BYTES + header_bytes + 8 * header.tokens :]

"""States in memory and in files: what is written comes back, what is damaged never does."""

from pathlib import Path

import numpy as np
import pytest

from engines.llamacpp.kv_slots import Prefix
from engines.llamacpp.prefix_store import PrefixStore

MODEL = "sha256:1234 llama.cpp 1.2 f16"
SYSTEM = Prefix(3, "", [2, 5, 7, -9, -9])
POLITE = Prefix(8, "polite", [2, 5])


def state(seed: int, size: int = 5000) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two states, saved; `POLITE` was used later."""
    store = PrefixStore()
    store.put(SYSTEM.key, state(1))
    store.put(POLITE.key, state(2))
    folder = tmp_path / "cache" / "states"
    assert store.save(folder, MODEL, [SYSTEM, POLITE]) == sum(path.stat().st_size for path in folder.iterdir()) > 10_000
    return folder


class Books:
    """Stands for `KvSlots`: adopts whatever it is offered, up to ``limit`` states."""

    def __init__(self, limit: int = 10):
        self.limit = limit
        self.adopted: list[tuple[str, list[int], int]] = []

    def adopt(self, group: str, tokens: list[int], size_bytes: int) -> int | None:
        if len(self.adopted) == self.limit:
            return None
        self.adopted.append((group, tokens, size_bytes))
        return 100 + len(self.adopted) - 1

    @property
    def prefixes(self) -> list[Prefix]:
        return [Prefix(100 + i, group, tokens) for i, (group, tokens, _) in enumerate(self.adopted)][::-1]


def test_states_are_held_and_dropped() -> None:
    store = PrefixStore()
    store.put(1, state(1))
    assert store.get(1) is not None
    assert store.get(2) is None
    store.drop([1, 2])
    assert store.get(1) is None
    assert len(store) == 0


def test_the_next_load_finds_what_was_saved_the_latest_first(folder: Path) -> None:
    store, books = PrefixStore(), Books()
    assert store.load(folder, MODEL, books.adopt) == 2
    assert books.adopted == [("polite", POLITE.tokens, 5000), ("", SYSTEM.tokens, 5000)]
    for key, seed in ((100, 2), (101, 1)):
        loaded = store.get(key)
        assert loaded is not None and loaded.flags.c_contiguous
        np.testing.assert_array_equal(loaded, state(seed))
    assert store.get(100) is store.get(100)


def test_no_folder_is_an_empty_one(tmp_path: Path) -> None:
    assert PrefixStore().load(tmp_path / "none", MODEL, Books().adopt) == 0


def test_what_is_written_is_not_written_again(folder: Path) -> None:
    store, books = PrefixStore(), Books()
    store.load(folder, MODEL, books.adopt)
    assert store.get(100) is not None
    inodes = {path.name: path.stat().st_ino for path in folder.iterdir()}
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert store.save(folder, MODEL, books.prefixes[::-1]) == total
    assert {path.name: path.stat().st_ino for path in folder.iterdir()} == inodes
    again = Books()
    PrefixStore().load(folder, MODEL, again.adopt)
    assert again.adopted == books.adopted[::-1], "the order of use is the new one"


def test_saving_removes_the_files_of_what_was_dropped(folder: Path) -> None:
    store, books = PrefixStore(), Books()
    store.load(folder, MODEL, books.adopt)
    (folder / "notes.txt").write_text("someone else's")
    store.drop([100])
    store.save(folder, MODEL, books.prefixes[:1])
    assert len(list(folder.glob("*.state"))) == 1
    assert (folder / "notes.txt").exists()


def test_a_state_that_is_refused_is_removed(folder: Path) -> None:
    store, books = PrefixStore(), Books(limit=1)
    assert store.load(folder, MODEL, books.adopt) == 1
    assert len(list(folder.iterdir())) == 1


def test_another_model_s_states_are_removed(folder: Path) -> None:
    books = Books()
    assert PrefixStore().load(folder, MODEL + "!", books.adopt) == 0
    assert not books.adopted
    assert not list(folder.iterdir())


def test_what_was_cut_at_any_length_is_removed(folder: Path) -> None:
    path = max(folder.iterdir(), key=lambda p: p.stat().st_size)
    whole = path.read_bytes()
    for size in [*range(0, 200), len(whole) - 1]:
        path.write_bytes(whole[:size])
        assert PrefixStore().load(folder, MODEL, Books().adopt) == 1  # the other file
        assert not path.exists()


def test_no_flipped_bit_comes_through(folder: Path) -> None:
    path = min(folder.iterdir(), key=lambda p: p.stat().st_size)
    whole = path.read_bytes()
    for at in [*range(0, 180), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        store, books = PrefixStore(), Books()
        for key in range(100, 100 + store.load(folder, MODEL, books.adopt)):
            loaded = store.get(key)
            assert loaded is None or np.array_equal(loaded, state(1))
            assert loaded is not None or not path.exists()
        assert not path.exists()


def test_a_leftover_of_an_interrupted_save_is_removed(folder: Path) -> None:
    (folder / "ab.state.part").write_bytes(b"PHSTATE1")
    assert PrefixStore().load(folder, MODEL, Books().adopt) == 2
    assert len(list(folder.iterdir())) == 2


def test_a_file_that_vanished_is_a_miss(folder: Path) -> None:
    store, books = PrefixStore(), Books()
    store.load(folder, MODEL, books.adopt)
    for path in folder.iterdir():
        path.unlink()
    assert store.get(100) is None
    assert store.save(folder, MODEL, books.prefixes) == 0


def test_a_folder_that_cannot_be_made_saves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = PrefixStore()
    store.put(SYSTEM.key, state(1))
    assert store.save(tmp_path / "file", MODEL, [SYSTEM]) == 0

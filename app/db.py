"""The one SQLite file, and the one thread that touches it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import sqlite_utils

from app.migrations import migrations

T = TypeVar("T")


class Store:
    """Runs functions on the database in its writer thread, each in a transaction of its own.

    What `run` has returned is on the disk: WAL with ``synchronous=FULL``.
    """

    def __init__(self, path: Path):
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._db: sqlite_utils.Database = self._thread.submit(self._open, path).result()

    @staticmethod
    def _open(path: Path) -> sqlite_utils.Database:
        db = sqlite_utils.Database(str(path))
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA foreign_keys=ON")
        migrations.apply(db)
        return db

    def run_sync(self, work: Callable[[sqlite_utils.Database], T]) -> T:
        """`run` for code without an event loop: start-up and tests."""
        return self._thread.submit(self._transact, work).result()

    async def run(self, work: Callable[[sqlite_utils.Database], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    def _transact(self, work: Callable[[sqlite_utils.Database], T]) -> T:
        with self._db.atomic():
            return work(self._db)

    def close(self) -> None:
        self._thread.submit(self._db.close).result()
        self._thread.shutdown()

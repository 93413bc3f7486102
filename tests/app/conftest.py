from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db import Store
from app.events import Bus
from app.paths import DataDir
from tests.support.scripted_daemon import ScriptedDaemon


@pytest.fixture
def scripted_daemon() -> Iterator[ScriptedDaemon]:
    daemon = ScriptedDaemon()
    try:
        yield daemon
    finally:
        daemon.close()


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "data").create()


@pytest.fixture
def store(data: DataDir) -> Iterator[Store]:
    store = Store(data.database)
    yield store
    store.close()


@pytest.fixture
def bus() -> Bus:
    return Bus()

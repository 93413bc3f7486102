from pathlib import Path

import pytest

from app.db import Store
from app.events import Bus
from app.paths import DataDir
from tests.support.range_server import RangeServer


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "data").create()


@pytest.fixture
def store(data: DataDir):
    store = Store(data.database)
    yield store
    store.close()


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def server():
    with RangeServer() as server:
        yield server

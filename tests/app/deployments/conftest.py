import pytest

from app.db import Store
from app.events import Bus
from app.paths import DataDir
from app.registry.registry import Registry


@pytest.fixture
async def registry(store: Store, data: DataDir, bus: Bus) -> Registry:
    registry = Registry(store, data, bus)
    await registry.load()
    return registry

"""Fixtures of the hot path."""

import pytest

from tests.support import virtual_time as clock
from tests.support.redis_server import redis_server  # noqa: F401


@pytest.fixture
def virtual_time():
    """`run(coroutine)` in a loop whose clock jumps."""
    return clock

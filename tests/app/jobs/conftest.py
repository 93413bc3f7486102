import pytest

from tests.support.range_server import RangeServer


@pytest.fixture
def server():
    with RangeServer() as server:
        yield server

import logging
from collections.abc import Iterator

import pytest

from tests.support.echo_worker import EchoHouse


@pytest.fixture
def echo_house(tmp_path):
    """A data plane that serves the echo engine as the route ``echo``, without any process."""
    house = EchoHouse(tmp_path)
    house.serve()
    return house


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """`/v2/logging` sets what the whole process logs."""
    root = logging.getLogger()
    level, filters = root.level, [(handler, list(handler.filters)) for handler in root.handlers]
    yield
    root.setLevel(level)
    for handler, before in filters:
        handler.filters[:] = before

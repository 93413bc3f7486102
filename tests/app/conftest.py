from collections.abc import Iterator

import pytest

from tests.support.fake_daemon import FakeDaemon


@pytest.fixture
def fake_daemon() -> Iterator[FakeDaemon]:
    daemon = FakeDaemon()
    try:
        yield daemon
    finally:
        daemon.close()

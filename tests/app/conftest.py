from collections.abc import Iterator

import pytest

from tests.support.scripted_daemon import ScriptedDaemon


@pytest.fixture
def scripted_daemon() -> Iterator[ScriptedDaemon]:
    daemon = ScriptedDaemon()
    try:
        yield daemon
    finally:
        daemon.close()

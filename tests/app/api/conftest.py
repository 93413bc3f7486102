import pytest

from tests.support.echo_worker import EchoHouse


@pytest.fixture
def echo_house(tmp_path):
    """A data plane that serves the echo engine as the route ``echo``, without any process."""
    house = EchoHouse(tmp_path)
    house.serve()
    return house

"""Everything in this folder needs a GPU, and is skipped with the reason where there is none."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def gpu() -> str:
    """The device that the tests use."""
    from tests.support.device import why_no_gpu

    if reason := why_no_gpu():
        pytest.skip(reason)
    return "cuda:0"

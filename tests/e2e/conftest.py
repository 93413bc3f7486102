import json

import pytest

from tests.support.daemon import RunningDaemon


@pytest.fixture
def daemon(tmp_path):
    with RunningDaemon(tmp_path / "data") as running:
        yield running


@pytest.fixture
def echo_model(tmp_path):
    """A file that the echo engine serves, behaving as told; give it to `pull` as ``file:PATH``."""

    def write(name="echo", **behaviour):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"engine": "echo", "kind": "tensor"} | behaviour))
        return f"file:{path}"

    return write

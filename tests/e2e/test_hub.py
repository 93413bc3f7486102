"""A model from a hub: found by name, pulled, served."""

from app.paths import resource
from tests.support.daemon import RunningDaemon
from tests.support.hub import publish
from tests.support.range_server import RangeServer


def test_a_model_is_found_on_the_hub_pulled_and_served(tmp_path):
    content = resource("digits/digits.onnx").read_bytes()
    with RangeServer() as server:
        sha = publish(server, "someone/numbers", {"model.onnx": content})
        with RunningDaemon(tmp_path / "data", HF_ENDPOINT=server.url, HF_HUB_OFFLINE="0") as daemon:
            [found] = daemon.get("/manage/v1/hub?query=numbers")["items"]
            assert found["ref"] == "hf:someone/numbers"
            job = daemon.pull(found["ref"])
            model = daemon.get(f"/manage/v1/models/{job['result']['model']}")
            assert model["versions"][0]["metadata"]["revision"] == sha
            assert daemon.deploy(model["name"])["state"] == "ready"
            refused = daemon.http.get("/manage/v1/hub")
            assert refused.status_code == 400
            assert refused.json()["error"]["details"]["field"] == "query"

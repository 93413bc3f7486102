"""Whatever is sent to `/v2`, the answer is the caller's to understand: never a 5xx, always ``{"error": …}``."""

import asyncio
from types import SimpleNamespace

import httpx2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.kserve.rest import Kserve
from app.api.kserve.service import Service
from app.api.server import Server
from app.dataplane import admission
from app.dataplane.dataplane import Dataplane
from app.dataplane.inference import Inference
from app.dataplane.routing import Target
from app.dataplane.tensors import SIZES
from app.errors import InvalidInput, ModelNotFound
from app.events import Bus
from app.monitoring.metrics import RouteMetrics
from app.settings import Settings
from engines.protocol import Signature, TensorSpec
from tests.support.scripted_reconciler import ScriptedReconciler


class Mirror(Dataplane):
    """Answers with the inputs, whatever their types and shapes; the rest is the real one."""

    async def infer(self, route, ask):
        for tensor in ask.inputs:
            if tensor.datatype not in (*SIZES, "BYTES"):
                raise InvalidInput(f"input {tensor.name} cannot be {tensor.datatype}")
            admission.check(TensorSpec(tensor.name, tensor.datatype, [-1] * len(tensor.shape)), tensor)
        return Inference(self.find(route), ask.inputs)


class NoModels:
    def models(self):
        return [SimpleNamespace(name="other")]

    def get(self, name):
        raise ModelNotFound(f"there is no model named {name!r}")


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """``ask(method, path, body)`` -> the answer."""
    dataplane = Mirror()
    signature = Signature([TensorSpec("x", "FP32", [-1, 2], batch_axis=0)], [], True)
    metrics = RouteMetrics("m", "m", 1, "tensor", "echo")
    target = Target(
        "m", "m", 1, "", 0, metrics=metrics, engine="echo", signature=signature, batcher=SimpleNamespace(full=False)
    )
    dataplane.publish({"m": target})
    service = Service(dataplane, ScriptedReconciler(Bus()), NoModels(), Bus(), tmp_path_factory.mktemp("logs"))
    server = Server(Kserve(service).routes(), Settings())

    def ask(method, path, body=b"", **headers):
        async def send():
            transport = httpx2.ASGITransport(app=server)
            async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8484") as http:
                return await http.request(method, path, content=body, headers=headers)

        return asyncio.run(send())

    yield ask
    service.close()


numbers = st.one_of(st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
#: Names that mean something, so that what is behind them is reached.
NAMES = (
    "binary_data_size", "binary_data", "binary_data_output", "classification", "shared_memory_region", "timeout",
    "shared_memory_offset", "shared_memory_byte_size", "priority", "sequence_id", "sequence_start", "config",
    "unload_dependents", "file:a",
)  # fmt: skip
parameters = st.dictionaries(st.sampled_from(NAMES), values, max_size=4)
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "y", ""]),
        "datatype": st.sampled_from(["FP32", "INT64", "BOOL", "BYTES", "BF16", "FP16", "UINT8", "", "FP99"]),
        "shape": st.lists(st.integers(-2, 3), max_size=3),
    },
    optional={"data": values, "parameters": parameters},
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=2)},
    optional={
        "id": st.text(max_size=4),
        "outputs": st.lists(st.fixed_dictionaries({"name": st.just("x")}, optional={"parameters": parameters})),
        "parameters": parameters,
    },
)


def check(answer):
    assert answer.status_code < 500, answer.text
    if answer.status_code != 200:
        assert isinstance(answer.json()["error"], str) and answer.json()["error"]


@settings(max_examples=60, deadline=None)
@given(st.one_of(requests, values), st.binary(max_size=8), st.one_of(st.none(), st.integers(-2, 2), st.just("x")))
def test_any_request_to_infer(ask, body, tail, off):
    """``off``: by how much the length of the header is wrong; `None`: there is no such header."""
    encoded = msgspec.json.encode(body)
    headers = {} if off is None else {"inference-header-content-length": f"{len(encoded)}+" if off == "x" else ""}
    if isinstance(off, int):
        headers["inference-header-content-length"] = str(len(encoded) + off)
    check(ask("POST", "/v2/models/m/infer", encoded + (tail if off is not None else b""), **headers))


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=40), st.sampled_from(["0", "1", "40", ""]))
def test_any_bytes_to_infer(ask, body, length):
    check(ask("POST", "/v2/models/m/infer", body, **{"inference-header-content-length": length}))


PATHS = [
    "/v2/repository/index",
    "/v2/repository/models/m/load",
    "/v2/repository/models/m/unload",
    "/v2/systemsharedmemory/region/r/register",
    "/v2/systemsharedmemory/region/r/unregister",
    "/v2/systemsharedmemory/unregister",
    "/v2/cudasharedmemory/region/r/register",
    "/v2/cudasharedmemory/unregister",
    "/v2/trace/setting",
    "/v2/models/m/trace/setting",
]
changes = st.dictionaries(
    st.sampled_from(["ready", "parameters", "key", "offset", "byte_size", "trace_level", "trace_rate", "trace_count"]),
    st.one_of(values, parameters, st.just("/name"), st.just(["TIMESTAMPS"])),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PATHS), st.one_of(changes, values))
def test_any_change(ask, path, body):
    check(ask("POST", path, msgspec.json.encode(body)))


@pytest.mark.parametrize("path", ["", "/stats", "/trace/setting", "/ready", "/versions/1/stats", "/versions/x/ready"])
def test_what_is_read_is_there_or_404(ask, path):
    for model in ("m", "nobody"):
        check(ask("GET", f"/v2/models/{model}{path}"))


def test_the_mirror_answers(ask):
    """Else all of the above would only see refusals."""
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2.5]}]}
    assert ask("POST", "/v2/models/m/infer", msgspec.json.encode(body)).json()["outputs"][0]["data"] == [1, 2.5]

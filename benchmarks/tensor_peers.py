"""The servers that `tensor.py` compares with, each from its own environment (`peers/install.sh`), serving one ONNX file
with one thread and one instance, as Pilothouse is told too."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
import psutil

PEERS = Path(__file__).parent / "peers"
MOST_ROWS = 32


@dataclass
class Subject:
    """``path`` takes Open Inference Protocol JSON, unless ``named`` says by which name the rows are sent."""

    url: str
    path: str = "/v2/models/model/infer"
    named: str = ""
    binary: str = ""
    """``oip``: JSON and binary tensors; otherwise a path that takes the bare bytes of the rows; empty: neither."""
    pids: list[int] = field(default_factory=list)
    """The server's, whose memory counts."""


def _environment(folder: Path, peer: str, model: Path) -> tuple[str, dict[str, str]]:
    python = str(folder / peer / "bin" / "python")
    return python, {"MODEL_FILE": str(model), "MODEL_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PEERS)}


@contextlib.contextmanager
def fastapi(folder: Path, model: Path, spec: dict[str, Any], work: Path) -> Iterator[Subject]:
    python, environment = _environment(folder, "fastapi", model)
    url = f"http://127.0.0.1:{common.free_port()}"
    command = [python, str(PEERS / "fastapi_tensor.py"), url.rpartition(":")[2]]
    with common.server(command, f"{url}/v2/health/ready", **environment) as process:
        yield Subject(url, binary="/raw", pids=[process.pid])


@contextlib.contextmanager
def litserve(folder: Path, model: Path, spec: dict[str, Any], work: Path) -> Iterator[Subject]:
    python, environment = _environment(folder, "litserve", model)
    url = f"http://127.0.0.1:{common.free_port()}"
    command = [python, str(PEERS / "litserve_tensor.py"), url.rpartition(":")[2]]
    with common.server(command, f"{url}/health", **environment) as process:
        try:
            yield Subject(url, pids=[process.pid])
        finally:  # it leaves its own processes behind
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()


@contextlib.contextmanager
def bentoml(folder: Path, model: Path, spec: dict[str, Any], work: Path) -> Iterator[Subject]:
    python, environment = _environment(folder, "bentoml", model)
    url = f"http://127.0.0.1:{common.free_port()}"
    command = [python, "-m", "bentoml", "serve", "bentoml_tensor:Served", "--port", url.rpartition(":")[2]]
    quiet = {"BENTOML_DO_NOT_TRACK": "1", "BENTOML_HOME": str(work / "bentoml")}
    with common.server([*command, "--working-dir", str(PEERS)], f"{url}/readyz", **environment, **quiet) as process:
        yield Subject(url, named="rows", pids=[process.pid])


@contextlib.contextmanager
def mlserver(folder: Path, model: Path, spec: dict[str, Any], work: Path) -> Iterator[Subject]:
    _, environment = _environment(folder, "mlserver", model)
    settings = {"http_port": common.free_port(), "grpc_port": common.free_port(), "metrics_port": common.free_port()}
    place = work / "mlserver"
    place.mkdir(exist_ok=True)
    server = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **settings}
    batching = {"max_batch_size": MOST_ROWS, "max_batch_time": 0.001}
    served = {"name": "model", "implementation": "mlserver_tensor.Served", **batching}
    (place / "settings.json").write_text(json.dumps(server))
    (place / "model-settings.json").write_text(json.dumps(served))
    url = f"http://127.0.0.1:{settings['http_port']}"

    command = [str(folder / "mlserver" / "bin" / "mlserver"), "start", str(place)]
    with common.server(command, f"{url}/v2/models/model/ready", **environment) as process:
        yield Subject(url, pids=[process.pid])  # binary tensors are its 500


@contextlib.contextmanager
def triton(folder: Path, model: Path, spec: dict[str, Any], work: Path) -> Iterator[Subject]:
    python, environment = _environment(folder, "triton", model)
    (site,) = (folder / "triton" / "lib").glob("python3*/site-packages")
    home = site / "pytriton" / "tritonserver"
    place = work / "triton" / "model"
    (place / "1").mkdir(parents=True, exist_ok=True)
    paths = [str(PEERS), str(site)]  # its stub does not heed PYTHONPATH
    code = (PEERS / "triton_model.py").read_text()
    (place / "1" / "model.py").write_text(f"import sys\n\nsys.path[:0] = {paths!r}\n{code}")
    tensors = "\n".join(
        f'{kind} [{{ name: "{t["name"]}" data_type: TYPE_{t["datatype"]} dims: {_dims(t["shape"][1:])} }}]'
        for kind in ("input", "output")
        for t in spec[f"{kind}s"]
    )
    (place / "config.pbtxt").write_text(
        f'name: "model"\nbackend: "python"\nmax_batch_size: {MOST_ROWS}\n{tensors}\n'
        "dynamic_batching {}\ninstance_group [{ kind: KIND_CPU count: 1 }]\n"
    )
    port = common.free_port()
    command = [
        str(home / "bin" / "tritonserver"),
        f"--model-repository={place.parent}",
        f"--backend-directory={home / 'backends'}",
        f"--http-port={port}",
        "--http-address=127.0.0.1",
        "--allow-grpc=false",
        "--allow-metrics=false",
    ]
    environment["PATH"] = os.pathsep.join([str(Path(python).parent), os.environ["PATH"]])
    environment["LD_LIBRARY_PATH"] = str(home / "external_libs")
    url = f"http://127.0.0.1:{port}"
    with common.server(command, f"{url}/v2/models/model/ready", **environment) as process:
        yield Subject(url, binary="oip", pids=[process.pid])


def _dims(shape: list[int]) -> list[int]:
    """A scalar of each row is said so."""
    return shape or [1]


@contextlib.contextmanager
def echo(kind: str) -> Iterator[Subject]:
    url = f"http://127.0.0.1:{common.free_port()}"
    command = [sys.executable, str(PEERS / "asgi_echo.py"), url.rpartition(":")[2], kind]
    with common.server(command, url) as process:
        yield Subject(url, binary="/" if kind == "echo" else "", pids=[process.pid])


PEER = {"FastAPI": fastapi, "LitServe": litserve, "BentoML": bentoml, "MLServer": mlserver, "Triton": triton}

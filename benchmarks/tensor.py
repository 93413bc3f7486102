"""Tensor models over HTTP with `wrk`, against onnxruntime itself, a bare ASGI echo and other servers.

python benchmarks/tensor.py --peers FOLDER      (made by benchmarks/peers/install.sh; without it: the limits only)
"""

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import common
import heavy_model
import numpy as np
import onnxruntime
import psutil
import tensor_peers
from tensor_peers import Subject

DIGITS = common.ROOT / "app" / "resources" / "digits" / "digits.onnx"
BODIES = 64
LUA = """
local requests, n = {}, 0
function init(args)
  local headers = {["Content-Type"] = "TYPE", ["Inference-Header-Content-Length"] = LENGTH}
  for i = 1, COUNT do
    local file = io.open("FOLDER/" .. i, "rb")
    requests[i] = wrk.format("POST", "PATH", headers, file:read("*a"))
    file:close()
  end
end
function request()
  n = n % COUNT + 1
  return requests[n]
end
"""
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def wrk(url: str, connections: int, seconds: int, script: str) -> dict[str, float]:
    """Raises `SystemExit` when any answer was not 200."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "--latency", "-s", script, url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(f"{url}\n{text}")

    def latency(share: str) -> float:
        value, unit = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
        return float(value) * _UNITS[unit]

    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])  # type: ignore[index]
    return {"requests/s": rate, "p50 ms": latency("50"), "p99 ms": latency("99")}


def rows(shape: list[int]) -> list[np.ndarray]:
    """What is asked: ``BODIES`` different rows, of pixels for digits."""
    random = np.random.default_rng(1)
    if shape[1:] == [1, 8, 8]:
        return [random.integers(0, 17, (1, *shape[1:])).astype(np.float32) for _ in range(BODIES)]
    return [np.round(random.standard_normal((1, *shape[1:]), np.float32), 3) for _ in range(BODIES)]


def script(folder: Path, subject: Subject, spec: dict[str, Any], binary: bool) -> str:
    """A Lua script for `wrk` whose bodies lie beside it."""
    folder.mkdir(parents=True)
    name, length = spec["name"], 0
    for number, row in enumerate(rows(spec["shape"]), 1):
        entry = {"name": name, "datatype": "FP32", "shape": list(row.shape)}
        values = [round(float(value), 3) for value in row.ravel()]
        if binary and subject.binary != "oip":
            body = row.tobytes()
        elif binary:
            entry["parameters"] = {"binary_data_size": row.nbytes}
            head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}, separators=(",", ":"))
            length, body = len(head), head.encode() + row.tobytes()
        elif subject.named:
            body = json.dumps({subject.named: [values]}, separators=(",", ":")).encode()
        else:
            body = json.dumps({"inputs": [entry | {"data": values}]}, separators=(",", ":")).encode()
        (folder / str(number)).write_bytes(body)
    path = subject.binary if binary and subject.binary != "oip" else subject.path
    lua = LUA.replace("TYPE", "application/octet-stream" if binary else "application/json")
    lua = lua.replace("LENGTH", f'"{length}"' if length else "nil").replace("COUNT", str(BODIES))
    file = folder / "requests.lua"
    file.write_text(lua.replace("FOLDER", str(folder)).replace("PATH", path))
    return str(file)


def check(url: str, folder: Path, expected: np.ndarray) -> None:
    """Raises `SystemExit` unless the first body of `script` is answered with ``expected``, in whichever form."""
    request = urllib.request.Request(url, (folder / "1").read_bytes(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        values = json.load(answer)
    if isinstance(values, dict):
        outputs = {output["name"]: output["data"] for output in values["outputs"]}
        values = next(data for data in outputs.values() if np.size(data) == expected.size)
    if not np.allclose(np.ravel(values), expected.ravel(), rtol=1e-3, atol=1e-5):
        raise SystemExit(f"{url} gives {values}, not {expected}")


@cache
def session(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def raw(model: Path, batch: int, seconds: float) -> dict[str, float]:
    """Rows/s of onnxruntime by itself, one thread."""
    own = session(model)
    given = own.get_inputs()[0]
    data = np.concatenate(rows([1, *given.shape[1:]])[:batch])
    own.run(None, {given.name: data})
    runs, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        own.run(None, {given.name: data})
        runs += 1
    return {"requests/s": runs * batch / taken, "p50 ms": taken / runs * 1e3, "p99 ms": taken / runs * 1e3}


def report(title: str, results: common.Rounds) -> None:
    """A Markdown table of medians, a row a subject, with our rate as a share of its: the median of the rounds."""
    print(f"\n{title}\n\n| | requests/s | p50 ms | p99 ms | ours / it |\n|---|---|---|---|---|")
    ours = results["pilothouse"]
    for name, rounds in results.items():
        middle = {figure: statistics.median(entry[figure] for entry in rounds) for figure in rounds[0]}
        share = statistics.median(a["requests/s"] / b["requests/s"] for a, b in zip(ours, rounds, strict=True))
        times = f"{middle['p50 ms']:.2f} | {middle['p99 ms']:.2f}"
        print(f"| {name} | {middle['requests/s']:,.0f} | {times} | {share:.2f} |", flush=True)


def processes(subject: Subject) -> set[psutil.Process]:
    """The server's, and all that they started."""
    parents = [psutil.Process(pid) for pid in subject.pids]
    return {*parents, *(child for parent in parents for child in parent.children(recursive=True))}


def memory_mb(subject: Subject) -> float:
    """Resident."""
    return sum(process.memory_info().rss for process in processes(subject)) / 1e6


@contextlib.contextmanager
def alone(subject: Subject | None, subjects: Iterable[Subject]) -> Iterator[None]:
    """The others stand still: some are busy while nobody asks them."""
    others = [process for other in subjects if other is not subject for process in processes(other)]
    for process in others:
        process.suspend()
    try:
        yield
    finally:
        for process in others:
            process.resume()


def pid_of(url: str) -> int:
    """Who listens there."""
    port = int(url.rpartition(":")[2])
    listening = (c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port)
    return int(next(listening).pid or 0)


@contextlib.contextmanager
def pilothouse(model: Path, name: str) -> Iterator[tuple[Subject, dict[str, Any]]]:
    spec = {"model": name, "settings": {"threads": 1}}
    models = None if name == "digits" else {name: f"file:{model}"}
    with common.pilothouse(("model", spec), models=models) as url:
        yield Subject(url, binary="oip", pids=[pid_of(url)]), common.ask("GET", f"{url}/v2/models/model")


def measure(name: str, model: Path, arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        ours, metadata = stack.enter_context(pilothouse(model, name))
        subjects = {"pilothouse": ours}
        for kind, title in (("echo", "ASGI echo"), ("parse", "ASGI echo, parses")):
            if name == "digits":
                subjects[title] = stack.enter_context(tensor_peers.echo(kind))
        for title, start in tensor_peers.PEER.items():
            if arguments.peers and (not arguments.only or title in arguments.only):
                subjects[title] = stack.enter_context(start(Path(arguments.peers), model, metadata, work / name))
        results = compare(name, model, subjects, metadata["inputs"][0], arguments, work / name)
        results["memory_mb"] = {title: round(memory_mb(subject)) for title, subject in subjects.items()}
        daemon = psutil.Process(ours.pids[0]).memory_info().rss / 1e6
        print(f"\nmemory after it, MB: {results['memory_mb']}; of pilothouse the daemon {daemon:.0f}")
        return results


def compare(
    name: str,
    model: Path,
    subjects: dict[str, Subject],
    spec: dict[str, Any],
    arguments: argparse.Namespace,
    work: Path,
) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    seconds = arguments.seconds

    def ask(subject: Subject, connections: int, file: str) -> dict[str, float]:
        with alone(subject, subjects.values()):
            return wrk(subject.url, connections, seconds, file)

    def limit(batch: int) -> dict[str, float]:
        with alone(None, subjects.values()):
            return raw(model, batch, min(seconds, 2))

    limits = {f"onnxruntime, batches of {batch}": partial(limit, batch) for batch in (1, 32)}
    for binary in (False, True):
        able = {title: subject for title, subject in subjects.items() if subject.binary or not binary}
        scripts = {
            title: script(work / f"{number}-{binary}", subject, spec, binary)
            for number, (title, subject) in enumerate(able.items())
        }
        if not binary:
            expected = session(model).run(None, {spec["name"]: rows(spec["shape"])[0]})[0]
            for title, subject in able.items():
                if "echo" not in title:
                    check(subject.url + subject.path, Path(scripts[title]).parent, expected)
        for connections in arguments.connections:
            measures: dict[str, Callable[[], dict[str, float]]] = {
                title: partial(ask, subject, connections, scripts[title]) for title, subject in able.items()
            }
            what = f"{name}, {'binary tensors' if binary else 'JSON'}, {connections} connection(s)"
            results = common.interleave(measures | ({} if binary else limits), arguments.rounds)
            report(what, results)
            kept[what] = results
    return kept


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 32, 64])
    parser.add_argument("--models", nargs="+", default=["digits", "heavy"])
    parser.add_argument("--peers", help="the folder that peers/install.sh filled")
    parser.add_argument("--only", nargs="+", choices=list(tensor_peers.PEER), help="of the peers")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    print(common.machine())
    kept = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name in arguments.models:
            (work / name).mkdir()
            model = DIGITS if name == "digits" else heavy_model.make(work / f"{name}.onnx")
            kept[name] = measure(name, model, arguments, work)
    common.keep(arguments.json, kept)


if __name__ == "__main__":
    main()

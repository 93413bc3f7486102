"""Five times more requests than it can answer, for a minute: what is still answered, and what becomes of the rest.

python benchmarks/overload.py [--seconds 60] [--times 5]

Capacity is measured just before, by as many clients as fill the batches. Then requests come at a fixed rate, whether or
not the ones before were answered (an open loop), each over a connection that is free. Fails where a refusal is no 503
with Retry-After, or is not counted.
"""

import argparse
import asyncio
import itertools
import json
import math
import re
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import common
import heavy_model
import psutil
import tensor

#: More connections than this are not opened; what finds none is not sent, and told.
MOST_CONNECTIONS = 4096
REFUSED = re.compile(r'nv_inference_request_failure\{[^}]*model="model"[^}]*reason="(\w+)"[^}]*\} (\d+)')


class Connection(asyncio.Protocol):
    """Asks, and reads just enough of the answer: status, length, whether there is a Retry-After."""

    def __init__(self, load: "Load"):
        self._load, self._data, self._began = load, b"", 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def ask(self, request: bytes) -> None:
        self._began = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        at = head.index(b"content-length: ") + 16
        if len(body) < int(head[at:].split(b"\r", 1)[0]):
            return
        self._data = b""
        self._load.answered(self, int(head[9:12]), b"\r\nretry-after: " in head, time.perf_counter() - self._began)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost(self)

    def close(self) -> None:
        self._transport.abort()


class Load:
    """``again``: a client asks as soon as it was answered."""

    def __init__(self, port: int, requests: list[bytes], again: bool = False):
        self._port, self._requests, self._again = port, itertools.cycle(requests), again
        self._all: set[Connection] = set()
        self._free: list[Connection] = []
        self.statuses: Counter[int] = Counter()
        self.latencies_s: list[float] = []
        self.unhinted = self.unsent = self.broken = 0
        self.ending = False

    async def connect(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            _, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port)
            self._all.add(connection)
            self._free.append(connection)

    def ask(self) -> None:
        if self._free:
            self._free.pop().ask(next(self._requests))
        else:
            self.unsent += 1

    def answered(self, connection: Connection, status: int, hinted: bool, seconds: float) -> None:
        self.statuses[status] += 1
        if status == 200:
            self.latencies_s.append(seconds)
        elif not hinted:
            self.unhinted += 1
        self._free.append(connection)
        if self._again and not self.ending:
            self.ask()

    def lost(self, connection: Connection) -> None:
        if not self.ending:
            self.broken += 1
        self._all.discard(connection)

    @property
    def waiting(self) -> int:
        return len(self._all) - len(self._free)

    async def end(self) -> None:
        """What was asked is answered first."""
        self.ending = True
        while self.waiting:  # noqa: ASYNC110 - it ends by count
            await asyncio.sleep(0.05)
        for connection in list(self._all):
            connection.close()


def requests(spec: dict[str, Any]) -> list[bytes]:
    bodies = []
    for row in tensor.rows(spec["shape"]):
        values = [round(float(value), 3) for value in row.ravel()]
        entry = {"name": spec["name"], "datatype": "FP32", "shape": list(row.shape), "data": values}
        bodies.append(json.dumps({"inputs": [entry]}, separators=(",", ":")).encode())
    head = "POST /v2/models/model/infer HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return [f"{head}content-length: {len(body)}\r\n\r\n".encode() + body for body in bodies]


async def capacity(port: int, bodies: list[bytes], clients: int, seconds: float) -> float:
    load = Load(port, bodies, again=True)
    await load.connect(clients)
    for _ in range(clients):
        load.ask()
    await asyncio.sleep(1)  # the first second does not count
    before, began = load.statuses[200], time.perf_counter()
    await asyncio.sleep(seconds)
    rate = (load.statuses[200] - before) / (time.perf_counter() - began)
    await load.end()
    return rate


async def overload(port: int, bodies: list[bytes], rate: float, seconds: float, pid: int) -> dict[str, Any]:
    load, daemon = Load(port, bodies), psutil.Process(pid)
    await load.connect(min(MOST_CONNECTIONS, max(512, round(rate / 4))))
    memory_mb, sent = [], 0
    began = next_look = time.perf_counter()
    while (now := time.perf_counter()) < began + seconds:
        due = math.floor((now - began) * rate)
        for _ in range(due - sent):
            load.ask()
        sent = due
        if now >= next_look:
            memory_mb.append(daemon.memory_info().rss / 1e6)
            next_look += 1
        await asyncio.sleep(0.001)
    answered = load.statuses[200]
    taken = time.perf_counter() - began
    await load.end()
    middle = len(memory_mb) // 2
    return {
        "offered/s": (sent - load.unsent) / taken,
        "goodput/s": answered / taken,
        "p50 ms": statistics.median(load.latencies_s) * 1e3,
        "p99 ms": statistics.quantiles(load.latencies_s, n=100)[98] * 1e3,
        "daemon MB, first and second half": [statistics.mean(memory_mb[:middle]), statistics.mean(memory_mb[middle:])],
        "statuses": dict(load.statuses),
        "refused without Retry-After": load.unhinted,
        "not sent for want of a connection": load.unsent,
        "connections lost": load.broken,
    }


def failures(url: str) -> Counter[str]:
    return Counter({reason: int(count) for reason, count in REFUSED.findall(common.text(f"{url}/metrics"))})


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--times", type=float, default=5)
    parser.add_argument("--clients", type=int, default=64, help="while capacity is measured")
    parser.add_argument("--model", choices=["heavy", "digits"], default="heavy")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    print(common.machine())
    with tempfile.TemporaryDirectory() as folder:
        file = tensor.DIGITS if arguments.model == "digits" else heavy_model.make(Path(folder) / "heavy.onnx")
        with tensor.pilothouse(file, arguments.model) as (subject, metadata):
            port, bodies = int(subject.url.rpartition(":")[2]), requests(metadata["inputs"][0])
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                can = runner.run(capacity(port, bodies, arguments.clients, 10))
                before = failures(subject.url)
                figures = runner.run(overload(port, bodies, arguments.times * can, arguments.seconds, subject.pids[0]))
                after = runner.run(capacity(port, bodies, arguments.clients, 5))
            counted = failures(subject.url) - before
    figures |= {"capacity/s": can, "capacity after it/s": after, "counted": dict(counted)}
    figures["goodput / capacity"] = figures["goodput/s"] / can
    for name, value in figures.items():
        print(f"{name}: {value:,.2f}" if isinstance(value, float) else f"{name}: {value}")
    common.keep(arguments.json, figures)
    refused = figures["statuses"].get(503, 0)
    if set(figures["statuses"]) - {200, 503} or figures["refused without Retry-After"]:
        raise SystemExit("something else than 200 or 503 with Retry-After was answered")
    if counted != Counter({"REJECTED": refused}):
        raise SystemExit(f"{refused} were refused, {dict(counted)} counted")


if __name__ == "__main__":
    main()

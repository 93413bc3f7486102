"""Two versions of digits take turns while clients ask all the time: no request may see it."""

import http.client
import itertools
import json
import threading
import time

import numpy as np
import onnx
import psutil
import pytest

from app.paths import resource
from tests.support.daemon import RunningDaemon, until

SWAPS, CONNECTIONS = 200, 8
#: Between swaps clients must have asked so often, so that each meets traffic.
REQUESTS = 10
#: What an allocator may keep of 180 swaps; one swap that were kept whole would be more.
MOST_GROWTH_BYTES = 24 << 20

IMAGE = np.random.default_rng(1).random((1, 1, 8, 8), np.float32)
BODY = json.dumps(
    {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": IMAGE.flatten().tolist()}]}
)


class Client(threading.Thread):
    """One connection that is never given up: what ends it is a failure."""

    def __init__(self, url: str, stop: threading.Event):
        super().__init__()
        self._host, self._stop_event = url.removeprefix("http://"), stop
        self.answered = 0
        self.versions: set[str] = set()
        self.failures: list[str] = []
        self.slowest_s = 0.0

    def run(self) -> None:
        connection = http.client.HTTPConnection(self._host, timeout=30)
        try:
            while not self._stop_event.is_set():
                began = time.perf_counter()
                connection.request("POST", "/v2/models/digits/infer", BODY)
                reply = connection.getresponse()
                document = json.loads(reply.read())
                self.slowest_s = max(self.slowest_s, time.perf_counter() - began)
                if reply.status != 200:
                    self.failures.append(f"{reply.status}: {document}")
                    continue
                self.versions.add(document["model_version"])
                self.answered += 1
        except Exception as error:
            self.failures.append(repr(error))
        finally:
            connection.close()


@pytest.mark.slow
def test_no_request_fails_over_two_hundred_version_swaps(tmp_path):
    other = onnx.load(str(resource("digits/digits.onnx")))
    other.producer_name = "another"
    (tmp_path / "digits.onnx").write_bytes(other.SerializeToString())
    with RunningDaemon(tmp_path / "data") as daemon:
        daemon.pull(f"file:{tmp_path / 'digits.onnx'}", name="digits")
        state = daemon.deploy("digits", version=1)
        assert state["state"] == "ready", state["error"]
        stop = threading.Event()
        clients = [Client(daemon.url, stop) for _ in range(CONNECTIONS)]
        for client in clients:
            client.start()
        process = psutil.Process(daemon.pid)
        swap_s, settled_bytes = [], 0
        changes = daemon.changes("deployment", "digits")
        try:
            for n in range(SWAPS):
                version = 2 - n % 2
                began = time.perf_counter()
                daemon.put("/manage/v1/deployments/digits", {"model": "digits", "version": version})
                after = next(d for d in changes if d["pending"] is None and d["version"] == version)
                swap_s.append(time.perf_counter() - began)
                assert after["state"] == "ready"
                seen = [client.answered for client in clients]
                until(lambda seen=seen: all(c.answered >= s + REQUESTS for c, s in zip(clients, seen, strict=True)))
                if n == SWAPS // 10:
                    settled_bytes = process.memory_info().rss
        finally:
            stop.set()
            for client in clients:
                client.join()
            changes.close()
        assert list(itertools.chain.from_iterable(client.failures for client in clients)) == []
        assert set.union(*(client.versions for client in clients)) == {"1", "2"}
        until(lambda: len(daemon.workers()) == 1)
        growth = process.memory_info().rss - settled_bytes
        assert growth < MOST_GROWTH_BYTES
        print(
            f"{SWAPS} swaps, {sum(c.answered for c in clients)} requests, a swap {np.median(swap_s):.3f} s "
            f"(longest {max(swap_s):.3f}), slowest request {max(c.slowest_s for c in clients) * 1e3:.0f} ms, "
            f"memory {growth / 2**20:+.1f} MiB"
        )

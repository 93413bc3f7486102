"""Time to readiness and resident memory: the idle daemon, the daemon that serves digits, the window.

QT_QPA_PLATFORM=offscreen python benchmarks/footprint.py
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import common
import psutil


def megabytes(pid: int) -> float:
    return psutil.Process(pid).memory_info().rss / 1e6


def start(folder: str, port: int) -> tuple["subprocess.Popen[bytes]", float]:
    """The daemon, and the seconds until `/health/ready` answered."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "app", "serve", "--port", str(port), "--data-dir", folder]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        with contextlib.suppress(OSError, urllib.error.URLError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=1).close()
            return process, time.perf_counter() - begun
        time.sleep(0.005)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--window-seconds", type=int, default=30)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    print(common.machine())
    times, idle = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            port = common.free_port()
            process, seconds = start(folder, port)
            times.append(seconds)
            time.sleep(3)  # past its first readings of the machine
            idle.append(megabytes(process.pid))
            process.terminate()
            process.wait(20)
    print(f"ready after, s:       median {statistics.median(times):.2f}, each {[round(t, 2) for t in times]}")
    print(f"daemon idle, MB:      median {statistics.median(idle):.0f}")
    with common.pilothouse(("digits", {"model": "digits"})) as url:
        daemon = next(child.pid for child in psutil.Process().children() if "serve" in child.cmdline())
        window = subprocess.Popen(
            [sys.executable, "-m", "ui", "--page", "monitor"],
            env={**os.environ, "PILOTHOUSE_URL": url},
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + arguments.window_seconds
        body = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [1.0] * 64}]}
        while time.monotonic() < end:
            common.ask("POST", f"{url}/v2/models/digits/infer", body)
            time.sleep(0.04)
        serving, desktop = megabytes(daemon), megabytes(window.pid)
        window.terminate()
        window.wait(10)
    print(f"daemon serving, MB:   {serving:.0f}")
    print(f"window (Monitor), MB: {desktop:.0f}")
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps(
                {
                    "machine": common.machine(),
                    "ready_s": times,
                    "idle_mb": idle,
                    "serving_mb": serving,
                    "window_mb": desktop,
                }
            )
        )


if __name__ == "__main__":
    main()

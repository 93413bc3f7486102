"""Ten thousand requests to a language model with random cancellations, disconnects and bad parameters.

python benchmarks/soak.py --model gemma-3-270m.gguf [--requests 10000]

Checks, and fails where it is not so: no sequence is left running or waiting, memory does not grow after the first
tenth, and the metrics add up to what the clients saw.
"""

import argparse
import asyncio
import random
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import common
import httpx2
import psutil

CLIENTS = 16
ENDS = ("stop", "length", "tool_calls")
WORDS = ["ship", "harbour", "lantern", "compass", "winter", "river", "engine", "paper"]
BAD: list[dict[str, Any]] = [
    {"max_tokens": -3},
    {"temperature": 99},
    {"logit_bias": {"x": 1}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"uniqueItems": True}}}},
    {"guided_regex": "(["},
    {"tools": [{"type": "function", "function": {"name": ""}}]},
    {"n": 0},
    {"messages": [{"role": "user", "content": "word " * 3000}]},
]


def body(random_: random.Random) -> dict[str, Any]:
    text = " ".join(random_.choice(WORDS) for _ in range(random_.randrange(1, 24)))
    request = {
        "model": "model",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": random_.randrange(1, 6),
        "seed": random_.randrange(1000),
        "stream": random_.random() < 0.7,
        "temperature": random_.choice([0, 0.8]),
    }
    match random_.randrange(12):
        case 0:
            request["logprobs"], request["top_logprobs"] = True, 3
        case 1:
            request["guided_choice"] = ["yes", "no"]
        case 2:
            request["n"] = 2
        case 3:
            request["priority"] = random_.randrange(-2, 3)
        case 4:
            request["cache_prompt"] = False
        case _:
            pass
    return request


async def one(client: httpx2.AsyncClient, random_: random.Random, seen: Counter[str]) -> None:
    request = body(random_)
    fate = random_.random()
    if fate < 0.1:
        answer = await client.post("/v1/chat/completions", json={**request, **random_.choice(BAD)})
        assert 400 <= answer.status_code < 500, answer.text
        seen["refused"] += 1
    elif fate < 0.3:
        # Hangs up after a random while: before the answer begins, or in the middle of it.
        request |= {"stream": True, "max_tokens": 200, "ignore_eos": True}
        try:
            async with asyncio.timeout(random_.random() * 1.5):
                async with client.stream("POST", "/v1/chat/completions", json=request) as answer:
                    async for _ in answer.aiter_lines():
                        pass
        except TimeoutError:
            seen["hung up"] += 1
    else:
        answer = await client.post("/v1/chat/completions", json=request)
        assert answer.status_code == 200, answer.text
        assert "error" not in answer.text[:20], answer.text
        seen["answered"] += request.get("n", 1)


def number(text: str, name: str, label: str = "") -> float:
    found = re.findall(rf"^{re.escape(name)}({{.*}})? (\S+)$", text, re.MULTILINE)
    return sum(float(value) for labels, value in found if label in labels)


async def soak(url: str, requests: int) -> None:
    random_, seen = random.Random(7), Counter[str]()
    left, done = requests, 0
    early: dict[str, float] = {}
    started = time.perf_counter()
    daemon = common.ask("GET", f"{url}/manage/v1/deployments/model")["replicas"][0]["pid"]
    processes = {"worker": psutil.Process(daemon), "daemon": psutil.Process(daemon).parent()}

    def memory() -> dict[str, float]:
        return {name: process.memory_info().rss / 2**20 for name, process in processes.items() if process is not None}

    async with httpx2.AsyncClient(base_url=url, timeout=120) as client:

        async def work() -> None:
            nonlocal left, done, early
            while left > 0:
                left -= 1
                await one(client, random_, seen)
                done += 1
                if done == requests // 10:
                    early = memory()
                if done % (requests // 10) == 0:
                    print(f"{done:6} {time.perf_counter() - started:6.0f} s", *memory().items(), flush=True)

        await asyncio.gather(*(work() for _ in range(CLIENTS)))
    end = time.monotonic() + 20
    text = common.text(f"{url}/metrics")
    while number(text, "vllm:num_requests_running") + number(text, "vllm:num_requests_waiting"):
        assert time.monotonic() < end, "sequences are left running"
        await asyncio.sleep(0.5)
        text = common.text(f"{url}/metrics")
    late = memory()
    print("seen by the clients:", dict(seen))
    for name, before in early.items():
        print(f"{name}: {before:.1f} MB after a tenth, {late[name]:.1f} MB at the end")
    finished = sum(number(text, "vllm:request_success_total", f'finished_reason="{reason}"') for reason in ENDS)
    aborted = number(text, "vllm:request_success_total", 'finished_reason="abort"')
    print("finished by the metrics:", finished, "aborted:", aborted)
    assert number(text, "vllm:kv_cache_usage_perc") == 0
    # Those that hung up may have been answered in full just before.
    assert seen["answered"] <= finished <= seen["answered"] + seen["hung up"], (finished, seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    arguments = parser.parse_args()
    # A small store of prefixes is full long before the first tenth is over, and stays so.
    spec = {"model": "model", "settings": {"context_tokens": 1024, "prefix_cache_mb": 64}}
    models = {"model": f"file:{arguments.model.resolve()}"}
    with common.pilothouse(("model", spec), models=models) as url:
        asyncio.run(soak(url, arguments.requests))


if __name__ == "__main__":
    main()

"""Language serving against llama-server: the same file, threads, context and requests, in interleaved rounds.

python benchmarks/language.py --model gemma-3-270m.gguf --llama-server build/bin/llama-server
"""

import argparse
import asyncio
import itertools
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import common
import httpx2

CONTEXT = 4096
SLOTS = 8
WORDS = ["ship", "harbour", "lantern", "compass", "winter", "river", "engine", "paper", "garden", "window"]


def prompt(random_: random.Random, words: int) -> str:
    """Another one each time, from its first word on: nothing of it is in any prefix cache."""
    return f"{random_.randrange(10**6)} " + " ".join(random_.choice(WORDS) for _ in range(words))


async def stream(client: httpx2.AsyncClient, body: dict[str, Any]) -> tuple[float, list[float], int]:
    """Seconds to the first token, the gaps between the later ones, and how many tokens there were."""
    started = time.perf_counter()
    times: list[float] = []
    tokens = 0
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
            if event["choices"] and event["choices"][0].get("text"):
                times.append(time.perf_counter())
    return times[0] - started, [b - a for a, b in itertools.pairwise(times)], tokens


async def round_of(url: str, streams: int, arguments: argparse.Namespace, random_: random.Random) -> dict[str, float]:
    async with httpx2.AsyncClient(base_url=url, timeout=600) as client:
        bodies = [
            {
                "model": "model",
                "prompt": prompt(random_, arguments.words),
                "max_tokens": arguments.tokens,
                "temperature": arguments.temperature,
                "seed": random_.randrange(10**6),
                "stream": True,
                "stream_options": {"include_usage": True},
                "ignore_eos": True,
                "cache_prompt": False,
            }
            for _ in range(streams)
        ]
        started = time.perf_counter()
        answers = await asyncio.gather(*(stream(client, body) for body in bodies))
        elapsed = time.perf_counter() - started
    gaps = sorted(gap for _, gaps, _ in answers for gap in gaps)
    assert all(tokens == arguments.tokens for _, _, tokens in answers), [tokens for _, _, tokens in answers]
    return {
        "output tokens/s": sum(tokens for _, _, tokens in answers) / elapsed,
        "TTFT p50 ms": 1e3 * statistics.median(first for first, _, _ in answers),
        "inter-token p50 ms": 1e3 * statistics.median(gaps),
        "inter-token p99 ms": 1e3 * gaps[int(len(gaps) * 0.99)],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--llama-server", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", default="1,4,8")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--words", type=int, default=112, help="words of a prompt; 112 make about 127 tokens")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json")
    arguments = parser.parse_args()

    port = common.free_port()
    command = [str(arguments.llama_server), "-m", str(arguments.model), "--port", str(port), "--host", "127.0.0.1"]
    command += ["-np", str(SLOTS), "-c", str(CONTEXT * SLOTS), "-t", str(arguments.threads), "--no-webui"]
    spec = {"model": "model", "settings": {"threads": arguments.threads, "context_tokens": CONTEXT, "sequences": SLOTS}}
    random_ = random.Random(1)
    kept: dict[str, Any] = {}
    with (
        common.pilothouse(("model", spec), models={"model": f"file:{arguments.model.resolve()}"}) as ours,
        common.server(command, f"http://127.0.0.1:{port}/health"),
    ):
        urls = {"pilothouse": ours, "llama-server": f"http://127.0.0.1:{port}"}
        print(common.machine())
        for streams in map(int, arguments.streams.split(",")):
            results = common.interleave(
                {
                    name: lambda url=url, n=streams: asyncio.run(round_of(url, n, arguments, random_))  # type: ignore[misc]
                    for name, url in urls.items()
                },
                arguments.rounds,
            )
            kept[str(streams)] = results
            common.report(f"{streams} stream(s), temperature {arguments.temperature}", results)
    common.keep(arguments.json, kept)


if __name__ == "__main__":
    main()

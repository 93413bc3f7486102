"""Language serving against llama-server: the same file, threads, context and requests, in interleaved rounds.

python benchmarks/language.py --model gemma-3-270m.gguf --llama-server build/bin/llama-server [--parts grid,prefix]

``grid``      output tokens/s, time to first token, gaps: 1, 4, 8 and 16 streams of 32, 512 and 2,000 prompt tokens,
              none of which was seen before
``prefix``    time to first token of requests that share 400 tokens, also against llama-server with --swa-full
``arrivals``  gaps between the tokens of running answers while prompts of 2,000 tokens arrive
``cost``      processor time of the daemon, and time of the worker outside the decode, of a step at 8 streams
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import httpx2

CONTEXT = 4096
SLOTS = 16
WORDS = ["ship", "harbour", "lantern", "compass", "winter", "river", "engine", "paper", "garden", "window"]


class Prompts:
    """Prompts of an exact length, as tokens: what one server reads, the other reads."""

    def __init__(self, url: str, seed: int = 1):
        self._random = random.Random(seed)
        tokens = common.ask("POST", f"{url}/tokenize", {"content": " " + " ".join(WORDS)})["tokens"]
        self._first = common.ask("POST", f"{url}/tokenize", {"content": "", "add_special": True})["tokens"]
        self._words = [token for token in tokens if token not in self._first]

    def new(self, length: int, prefix: list[int] | None = None) -> list[int]:
        """``length`` tokens, after ``prefix``; another one each time, almost from the first word on."""
        start = prefix if prefix is not None else self._first
        return start + [self._random.choice(self._words) for _ in range(length - len(start))]

    @property
    def seed(self) -> int:
        return self._random.randrange(10**6)


async def stream(
    client: httpx2.AsyncClient, prompt: list[int], tokens: int, seed: int, cache: bool, temperature: float = 0.8
) -> tuple[float, list[float], int]:
    """Seconds to the first token, when each came, and how many there were."""
    body = {
        "model": "model",
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": temperature,
        "seed": seed,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "cache_prompt": cache,
    }
    started = time.perf_counter()
    times: list[float] = []
    counted = 0
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("usage"):
                counted = event["usage"]["completion_tokens"]
            if event["choices"] and event["choices"][0].get("text"):
                times.append(time.perf_counter())
    return times[0] - started, times, counted


def gaps(*answers: list[float]) -> list[float]:
    return sorted(later - earlier for times in answers for earlier, later in itertools.pairwise(times))


def percentile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]


async def grid_round(
    url: str, prompts: Prompts, streams: int, length: int, tokens: int, temperature: float
) -> dict[str, float]:
    async with httpx2.AsyncClient(base_url=url, timeout=900) as client:
        asked = [stream(client, prompts.new(length), tokens, prompts.seed, False, temperature) for _ in range(streams)]
        started = time.perf_counter()
        answers = await asyncio.gather(*asked)
        elapsed = time.perf_counter() - started
    assert all(count == tokens for _, _, count in answers), [count for _, _, count in answers]
    between = gaps(*(times for _, times, _ in answers))
    return {
        "output tokens/s": sum(count for _, _, count in answers) / elapsed,
        "TTFT p50 ms": 1e3 * statistics.median(first for first, _, _ in answers),
        "inter-token p50 ms": 1e3 * statistics.median(between),
        "inter-token p99 ms": 1e3 * percentile(between, 0.99),
    }


async def prefix_round(url: str, prompts: Prompts, shared: list[int], streams: int) -> dict[str, float]:
    """One request has been answered before with the same 400 tokens at its beginning."""
    async with httpx2.AsyncClient(base_url=url, timeout=900) as client:
        await stream(client, prompts.new(len(shared) + 16, shared), 8, prompts.seed, True)
    # New connections: llama-server closes the old one without a word.
    async with httpx2.AsyncClient(base_url=url, timeout=900) as client:
        asked = [stream(client, prompts.new(len(shared) + 16, shared), 16, prompts.seed, True) for _ in range(streams)]
        answers = await asyncio.gather(*asked)
    return {"TTFT p50 ms": 1e3 * statistics.median(first for first, _, _ in answers)}


async def arrivals_round(url: str, prompts: Prompts, writers: int, arriving: int, length: int) -> dict[str, float]:
    """``writers`` answers are being written; meanwhile ``arriving`` long prompts come, one after the other."""
    async with httpx2.AsyncClient(base_url=url, timeout=900) as client:
        running = [
            asyncio.create_task(stream(client, prompts.new(32), 300, prompts.seed, False)) for _ in range(writers)
        ]
        await asyncio.sleep(2)
        firsts = []
        for _ in range(arriving):
            async with httpx2.AsyncClient(base_url=url, timeout=900) as another:
                first, _, _ = await stream(another, prompts.new(length), 8, prompts.seed, False)
            firsts.append(first)
        answers = await asyncio.gather(*running)
    between = gaps(*(times for _, times, _ in answers))
    return {
        "inter-token p50 ms": 1e3 * statistics.median(between),
        "inter-token p99 ms": 1e3 * percentile(between, 0.99),
        "longest gap ms": 1e3 * between[-1],
        "TTFT of the long ones p50 ms": 1e3 * statistics.median(firsts),
    }


def counters(url: str) -> dict[str, float]:
    """The sums of our own counters, by name."""
    found: dict[str, float] = {}
    for line in common.text(f"{url}/metrics").splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found


async def cost_round(url: str, prompts: Prompts, streams: int, tokens: int) -> dict[str, float]:
    before = counters(url)
    await grid_round(url, prompts, streams, 32, tokens, 0.8)
    await asyncio.sleep(1.5)  # the workers' counters are read once a second
    after = counters(url)
    spent = {name: after[name] - before[name] for name in after}
    step_s = spent["pilothouse_worker_step_seconds_total"]
    outside_s = step_s - spent["pilothouse_worker_decode_seconds_total"]
    daemon_s = spent["pilothouse_cpu_seconds_total"]
    generated = spent["vllm:generation_tokens_total"]
    return {
        "ms a step": 1e3 * step_s / spent["pilothouse_worker_steps_total"],
        "worker outside the decode, % of a step": 100 * outside_s / step_s,
        "daemon, % of a step": 100 * daemon_s / step_s,
        "worker outside the decode, µs a token": 1e6 * outside_s / generated,
        "daemon, µs a token": 1e6 * daemon_s / generated,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--llama-server", required=True, type=Path)
    parser.add_argument("--parts", default="grid,prefix,arrivals")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", default="1,4,8,16")
    parser.add_argument("--lengths", default="32,512,2000", help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", help="a setting of our deployment")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")

    def llama_server(port: int, *more: str) -> Any:
        command = [str(arguments.llama_server), "-m", str(arguments.model), "--port", str(port), "--host", "127.0.0.1"]
        command += ["-np", str(SLOTS), "-c", str(CONTEXT * SLOTS), "-t", str(arguments.threads), "--no-webui", *more]
        return common.server(command, f"http://127.0.0.1:{port}/health")

    settings = {"threads": arguments.threads, "context_tokens": CONTEXT, "sequences": SLOTS}
    settings |= {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in arguments.set)}
    spec = {"model": "model", "settings": settings}
    kept: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        models = {"model": f"file:{arguments.model.resolve()}"}
        urls = {"pilothouse": stack.enter_context(common.pilothouse(("model", spec), models=models))}
        peers = {"llama-server": ()}
        if "prefix" in parts:
            peers |= {"llama-server --swa-full": ("--swa-full",)}
        for name, more in peers.items():
            port = common.free_port()
            stack.enter_context(llama_server(port, *more))
            urls[name] = f"http://127.0.0.1:{port}"
        prompts = Prompts(urls["llama-server"])
        print(common.machine())

        def compare(title: str, names: list[str], measure: Callable[[str], Any]) -> None:
            subjects = {name: lambda url=urls[name]: asyncio.run(measure(url)) for name in names}
            kept[title] = common.interleave(subjects, arguments.rounds)
            common.report(title, kept[title])
            common.keep(arguments.json, kept)

        both = ["pilothouse", "llama-server"]
        if "grid" in parts:
            for length, streams in itertools.product(
                map(int, arguments.lengths.split(",")), map(int, arguments.streams.split(","))
            ):
                compare(
                    f"{streams} stream(s), prompts of {length} tokens",
                    both,
                    lambda url, n=streams, k=length: grid_round(
                        url, prompts, n, k, arguments.tokens, arguments.temperature
                    ),
                )
        if "prefix" in parts:
            for streams in (1, 8):
                shared = prompts.new(400)
                compare(
                    f"{streams} request(s) that share 400 tokens",
                    list(urls),
                    lambda url, n=streams, s=shared: prefix_round(url, prompts, s, n),
                )
        if "cost" in parts:
            compare(
                "8 streams, prompts of 32 tokens",
                ["pilothouse"],
                lambda url: cost_round(url, prompts, 8, arguments.tokens),
            )
        if "arrivals" in parts:
            compare(
                "4 answers running while 4 prompts of 2,000 tokens arrive",
                both,
                lambda url: arrivals_round(url, prompts, 4, 4, 2000),
            )


if __name__ == "__main__":
    main()

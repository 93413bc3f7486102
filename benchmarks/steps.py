"""The step loop of a language model by itself, without HTTP: what it spends outside the decode, what preemption costs
when the state is kept or computed again, and what guessing ahead brings.

python benchmarks/steps.py --model gemma-3-270m.gguf [--parts share,preemption,drafting] [--rounds N] [--json FILE]
"""

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import interleave, keep, machine, report

from engines.llamacpp.engine import TextEngine
from engines.llamacpp.loading import open_model
from engines.protocol import Generate, Load, Sampling

WORDS = ["ship", "harbour", "lantern", "compass", "winter", "river", "engine", "paper", "garden", "window"]
STORY = "The keeper of the lighthouse wrote down the weather, the ships that passed, and"
COPY = (
    "def area(width, height):\n    return width * height\n\n"
    "def perimeter(width, height):\n    return 2 * (width + height)\n\n"
    "The same functions again:\n\n"
)


class Loop:
    def __init__(self, model: Path, **settings: Any):
        engine = open_model(Load("llamacpp", str(model), settings=settings))
        assert isinstance(engine, TextEngine)
        self.engine = engine
        self._random = random.Random(1)
        self._number = 0

    def words(self, count: int) -> str:
        """About one token each."""
        return " ".join(self._random.choice(WORDS) for _ in range(count))

    def run(self, prompts: list[str], tokens: int, sampling: Sampling, cache: bool = False) -> dict[str, float]:
        before = self.engine.step().load
        started = time.perf_counter()
        for prompt in prompts:
            self._number += 1
            self.engine.submit(
                Generate(
                    self._number,
                    prompt=prompt,
                    sampling=sampling,
                    max_tokens=tokens,
                    ignore_eos=True,
                    cache_prompt=cache,
                )
            )
        while self.engine.busy:
            load = self.engine.step().load
        elapsed = time.perf_counter() - started
        decode = (load.decode_us - before.decode_us) / 1e6
        steps = load.steps - before.steps
        return {
            "output tokens/s": len(prompts) * tokens / elapsed,
            "ms a step": 1e3 * elapsed / steps,
            "outside the decode, % of a step": 100 * (elapsed - decode) / elapsed,
            "sent back": float(load.preempted - before.preempted),
            "guesses right, %": 100 * (load.accepted - before.accepted) / max(1, load.drafted - before.drafted),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--parts", default="share,preemption,drafting")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    kept: dict[str, Any] = {}
    print(machine())

    def compare(title: str, subjects: dict[str, Callable[[], dict[str, float]]], ours: str) -> None:
        kept[title] = interleave(subjects, arguments.rounds)
        report(title, kept[title], ours=ours)
        keep(arguments.json, kept)

    usual, greedy = Sampling(seed=1), Sampling(temperature=0.0)
    if "share" in parts:
        loop = Loop(arguments.model, sequences=16)
        compare(
            "Streams of 32 prompt tokens and 64 more, the usual sampling",
            {
                f"{n} streams": lambda n=n: loop.run([loop.words(31) for _ in range(n)], 64, usual)
                for n in (1, 4, 8, 16)
            },
            ours="8 streams",
        )
        loop.engine.close()
    if "preemption" in parts:
        # 4 of up to 1,000 tokens in 2,400 cells: about every second one is sent back on its way.
        loop = Loop(arguments.model, sequences=4, context_tokens=1024, kv_tokens=2400)

        def preempted(save_tokens: int) -> dict[str, float]:
            loop.engine._scheduler._save_tokens = save_tokens
            return loop.run([loop.words(500) for _ in range(4)], 400, greedy, cache=True)

        compare(
            "4 sequences of 900 tokens in 2,400 cells",
            {"kept": lambda: preempted(64), "computed again": lambda: preempted(1 << 30)},
            ours="kept",
        )
        loop.engine.close()
    if "drafting" in parts:
        plain, guessing = Loop(arguments.model, sequences=1), Loop(arguments.model, sequences=1, speculative="ngram")
        for title, prompt in (("code that repeats itself", COPY), ("a story", STORY)):
            compare(
                f"One stream, greedy, 256 tokens: {title}",
                {
                    "n-gram": lambda p=prompt: guessing.run([p], 256, greedy),
                    "plain": lambda p=prompt: plain.run([p], 256, greedy),
                },
                ours="n-gram",
            )
        plain.engine.close()
        guessing.engine.close()


if __name__ == "__main__":
    main()

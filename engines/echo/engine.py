"""The smallest engine of each kind. It exists to prove the process edge: every misbehaviour of a real engine can
be asked of it. Its model file is JSON: ``{"kind": "tensor" | "language", …behaviour}``; the deployment's settings
override it.

Behaviour: ``load_delay_ms``, ``load_error`` (a code of `protocol.Failed`), ``load_crash``, ``delay_ms`` (of a run or
a step), ``crash_on`` (a first value, or a prompt, that kills the process), ``error_on`` (one that is refused),
``leak_mb`` (kept at each run), ``shout_mb`` (on standard error, in one line), ``batched``, ``sequences``,
``context_tokens``.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from engines.engine import EngineError
from engines.protocol import (
    Abort,
    Generate,
    LanguageModel,
    Load,
    Ready,
    SchedulerLoad,
    Signature,
    Step,
    TensorSpec,
    TokenEvent,
    Tokenize,
)


class EchoEngine:
    def __new__(cls, load: Load) -> Any:
        try:
            behaviour = {**json.loads(Path(load.path).read_text(encoding="utf-8")), **load.settings}
        except (OSError, ValueError) as error:
            raise EngineError("bad_model", f"{Path(load.path).name} is not an echo model: {error}") from None
        time.sleep(behaviour.get("load_delay_ms", 0) / 1000)
        if code := behaviour.get("load_error"):
            raise EngineError(code, f"echo was asked to fail with {code}", hint="deploy without load_error")
        if behaviour.get("load_crash"):
            _crash("echo was asked to crash while loading")
        return (EchoTokens if behaviour.get("kind") == "language" else EchoTensors)(load, behaviour)


def _crash(words: str) -> None:
    os.write(2, f"Fatal: {words}\n".encode())
    os.abort()


def _ready(load: Load, **kind: Any) -> Ready:
    return Ready(
        engine="echo",
        engine_version="1",
        device=load.device,
        provider="echo",
        threads=1,
        memory_bytes=psutil.Process().memory_info().rss,
        **kind,
    )


class EchoTensors:
    """Gives ``output`` = ``input``, FP32 [batch, n]."""

    def __init__(self, load: Load, behaviour: dict[str, Any]):
        self._behaviour = behaviour
        self._leaked: list[bytes] = []
        shape = [-1, -1]
        self.ready = _ready(
            load,
            signature=Signature(
                inputs=[TensorSpec("input", "FP32", shape)],
                outputs=[TensorSpec("output", "FP32", shape)],
                batched=behaviour.get("batched", True),
            ),
        )

    def infer(self, inputs: dict[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        values = inputs["input"]
        time.sleep(self._behaviour.get("delay_ms", 0) / 1000)
        if shout_mb := self._behaviour.get("shout_mb"):
            os.write(2, b"x" * int(shout_mb * 2**20))
        if (crash_on := self._behaviour.get("crash_on")) is not None and np.any(values == crash_on):
            _crash(f"echo was asked to crash on {crash_on}")
        if (error_on := self._behaviour.get("error_on")) is not None and np.any(values == error_on):
            raise EngineError("invalid_input", f"echo was asked to refuse {error_on}", field="input")
        if leak_mb := self._behaviour.get("leak_mb"):
            self._leaked.append(b"\1" * int(leak_mb * 2**20))
        return {"output": values}

    def close(self) -> None:
        self._leaked.clear()


class EchoTokens:
    """Says the words of the prompt again, one word a step for each running sequence."""

    def __init__(self, load: Load, behaviour: dict[str, Any]):
        self._behaviour = behaviour
        self._sequences = int(behaviour.get("sequences", 8))
        self._context = int(behaviour.get("context_tokens", 512))
        self._new: list[TokenEvent] = []
        self._left: dict[int, list[str]] = {}
        self.ready = _ready(
            load,
            language=LanguageModel(
                context_tokens=self._context, sequences=self._sequences, vocabulary=0, chat_template="chatml"
            ),
        )

    @property
    def busy(self) -> bool:
        return bool(self._left)

    def submit(self, request: Generate) -> None:
        words = self._words(request.messages, request.prompt)
        if len(words) >= self._context:
            raise EngineError(
                "context_exceeded",
                f"the prompt has {len(words)} tokens, the context is {self._context}",
                field="prompt",
            )
        if request.prompt is not None and request.prompt == self._behaviour.get("crash_on"):
            _crash("echo was asked to crash on this prompt")
        answer = words if request.max_tokens < 0 else words[: request.max_tokens]
        self._new.append(TokenEvent(request.id, prompt_tokens=len(words)))
        self._left[request.id] = list(answer)

    def abort(self, request: Abort) -> None:
        self._left.pop(request.id, None)

    def step(self) -> Step:
        time.sleep(self._behaviour.get("delay_ms", 0) / 1000)
        events, self._new = self._new, []
        for number in sorted(self._left)[: self._sequences]:
            words = self._left[number]
            if words:
                events.append(TokenEvent(number, text=words.pop(0) + " ", tokens=1))
            if not words:
                events.append(TokenEvent(number, finish_reason="stop"))
                del self._left[number]
        running = min(len(self._left), self._sequences)
        return Step(events, SchedulerLoad(running, len(self._left) - running, running / self._sequences))

    def tokenize(self, request: Tokenize) -> list[int]:
        return list(range(len(self._words(request.messages, request.text))))

    def close(self) -> None:
        self._left.clear()

    @staticmethod
    def _words(messages: list[dict[str, Any]] | None, text: str | None) -> list[str]:
        if messages is not None:
            text = " ".join(str(message.get("content", "")) for message in messages)
        return (text or "").split()

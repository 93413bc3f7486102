"""The smallest engine of each kind. It exists to prove the process edge: every misbehaviour of a real engine can
be asked of it. Its model file is JSON: ``{"kind": "tensor" | "language", …behaviour}``; the deployment's settings
override it.

Behaviour: ``load_delay_ms``, ``load_error`` (a code of `protocol.Failed`), ``load_crash``, ``delay_ms`` (of a run or
a step), ``crash_on`` (a first value, or a prompt, that kills the process), ``error_on`` (one that is refused),
``leak_mb`` (kept at each run), ``shout_mb`` (on standard error, in one line), ``batched``, ``sequences``,
``context_tokens``, ``error_after`` (words of an answer, after which it fails), ``unload_delay_ms``, ``unload_crash``,
``unload_error`` (a code of `protocol.Rejected`).

The language kind says the words of the prompt again. Asked to think (``enable_thinking``), it first reasons "I
repeat."; given tools, it calls the first (or the one that is named), once for each word that follows "call" in the
prompt, with that word under ``word``; a JSON schema is answered with ``{}``.
"""

import hashlib
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
    Embed,
    Embedded,
    Generate,
    LanguageModel,
    Load,
    Rank,
    Ready,
    Rejected,
    SchedulerLoad,
    Signature,
    Step,
    TensorSpec,
    TokenEvent,
    Tokenize,
    TokenLogprob,
    Tokens,
    ToolCallDelta,
    Unloaded,
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
                inputs=[TensorSpec("input", "FP32", shape, batch_axis=0)],
                outputs=[TensorSpec("output", "FP32", shape, batch_axis=0)],
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
    """One word a step for each running sequence."""

    def __init__(self, load: Load, behaviour: dict[str, Any]):
        self._behaviour, self._cache_folder = behaviour, load.cache_folder
        self._sequences = int(behaviour.get("sequences", 8))
        self._context = int(behaviour.get("context_tokens", 512))
        self._new: list[TokenEvent] = []
        self._said: list[str] = []
        self._left: dict[int, list[TokenEvent]] = {}
        self._adapters = [name.removeprefix("adapter:") for name in load.files if name.startswith("adapter:")]
        self.ready = _ready(
            load,
            language=LanguageModel(
                context_tokens=self._context,
                sequences=self._sequences,
                vocabulary=0,
                chat_template="chatml",
                capabilities=["completion", "tools", "thinking", "vision", "embedding", "rerank"],
                architecture="echo",
                quantization="F32",
                trained_context=self._context,
                embedding_length=8,
                pooling="rank",
                adapters=self._adapters,
                template="{{ messages }}",
            ),
        )

    @property
    def busy(self) -> bool:
        return bool(self._left)

    def submit(self, request: Generate, media: Sequence[bytes] = ()) -> None:
        words = self._words(request)
        if len(words) >= self._context:
            raise EngineError(
                "context_exceeded",
                f"the prompt has {len(words)} tokens, the context is {self._context}",
                field="prompt",
            )
        if request.prompt is not None and request.prompt == self._behaviour.get("crash_on"):
            _crash("echo was asked to crash on this prompt")
        if request.adapter and request.adapter not in self._adapters:
            raise EngineError("invalid_input", f"there is no adapter {request.adapter}", field="model")
        self._said.append(" ".join(words))
        self._new.append(TokenEvent(request.id, prompt_tokens=len(words)))
        self._left[request.id] = self._answer(request, words + [f"image:{len(data)}" for data in media])

    def _answer(self, request: Generate, words: list[str]) -> list[TokenEvent]:
        events = []
        reason = "stop"
        if request.variables.get("enable_thinking"):
            events += [TokenEvent(request.id, tokens=1, reasoning=word) for word in ("I ", "repeat.")]
        if request.tools and request.tool_choice != "none" and ("call" in words or request.tool_choice != "auto"):
            events += self._calls(request, words)
            reason = "tool_calls"
        else:
            say = ["{}"] if request.grammar is not None else [word + " " for word in words]
            events += [TokenEvent(request.id, text=word, tokens=1) for word in say]
        if request.logprobs >= 0:
            for event in events:
                text = event.text.encode()
                event.logprobs = [TokenLogprob(1, text, -0.5, [(1, text, -0.5)][: request.logprobs])]
        if request.max_tokens >= 0 and len(events) > request.max_tokens:
            events, reason = events[: request.max_tokens], "length"
        for i, event in enumerate(events):
            end = next((stop for stop in request.stop if stop and stop in event.text), "")
            if end:
                event.text = event.text.partition(end)[0]
                return [*events[: i + 1], TokenEvent(request.id, finish_reason="stop", stop=end)]
        if (error_after := self._behaviour.get("error_after")) is not None:
            del events[int(error_after) :]
            return [*events, TokenEvent(request.id, error_code="engine_failed", error_message="echo was asked to fail")]
        return [*events, TokenEvent(request.id, finish_reason=reason)]

    def _calls(self, request: Generate, words: list[str]) -> list[TokenEvent]:
        name = request.tool_choice.partition(":")[2] or request.tools[0]["function"]["name"]
        said = words[words.index("call") + 1 :] if "call" in words else []
        said = said[: len(said) if request.parallel_tool_calls else 1] or [""]
        events = []
        for i, word in enumerate(said):
            start = ToolCallDelta(i, f"call_{request.id}_{i}", name)
            rest = (ToolCallDelta(i, arguments=piece) for piece in ('{"word": ', json.dumps(word) + "}"))
            events += [TokenEvent(request.id, tokens=1, tool_calls=[call]) for call in (start, *rest)]
        return events

    def abort(self, request: Abort) -> None:
        self._left.pop(request.id, None)

    def step(self) -> Step:
        time.sleep(self._behaviour.get("delay_ms", 0) / 1000)
        events, self._new = self._new, []
        for number in sorted(self._left)[: self._sequences]:
            event = self._left[number].pop(0)
            events.append(event)
            if event.finish_reason or event.error_code:
                del self._left[number]
        running = min(len(self._left), self._sequences)
        return Step(events, SchedulerLoad(running, len(self._left) - running, running / self._sequences))

    def embed(self, requests: Sequence[Embed | Rank]) -> list[tuple[Embedded | Rejected, np.ndarray]]:
        """A direction that depends on the text alone; the score of a document is the share of the query's words."""
        answers: list[tuple[Embedded | Rejected, np.ndarray]] = []
        for request in requests:
            if isinstance(request, Rank):
                wanted = set(request.query.split())
                scores = [[len(wanted & set(d.split())) / max(1, len(wanted))] for d in request.documents]
                tokens = [len(document.split()) for document in request.documents]
                answers.append((Embedded(request.id, tokens, 1), np.array(scores, np.float32)))
            else:
                texts = [text if isinstance(text, str) else " ".join(map(str, text)) for text in request.inputs]
                digests = [hashlib.sha256(text.encode()).digest()[:8] for text in texts]
                values = np.array([list(digest) for digest in digests], np.float32) - 127.5
                values /= np.linalg.norm(values, axis=1, keepdims=True)
                answers.append((Embedded(request.id, [len(text.split()) for text in texts], 8), values))
        return answers

    def tokenize(self, request: Tokenize) -> Tokens:
        if request.tokens is not None:
            return Tokens(request.id, request.tokens, " ".join(map(str, request.tokens)))
        words = self._words(request)
        pieces = [word.encode() for word in words] if request.pieces else []
        return Tokens(request.id, list(range(len(words))), " ".join(words), pieces)

    def unload(self) -> Unloaded:
        time.sleep(self._behaviour.get("unload_delay_ms", 0) / 1000)
        if self._behaviour.get("unload_crash"):
            _crash("echo was asked to crash while unloading")
        if code := self._behaviour.get("unload_error"):
            raise EngineError(code, "echo was asked to fail to unload")
        if not self._cache_folder:
            return Unloaded()
        return Unloaded((Path(self._cache_folder) / "said").write_text("\n".join(self._said), encoding="utf-8"))

    def close(self) -> None:
        self._left.clear()

    @staticmethod
    def _words(request: Generate | Tokenize) -> list[str]:
        text = request.prompt if isinstance(request, Generate) else request.text
        if request.messages is not None:
            contents = [message.get("content") or "" for message in request.messages]
            texts = [
                content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)
                for content in contents
            ]
            text = " ".join(texts)
        elif isinstance(request, Generate) and request.prompt_tokens is not None:
            text = " ".join(map(str, request.prompt_tokens))
        return (text or "").split()

"""The llama.cpp token engine: our own continuous batching over one llama.cpp context."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.engine import EngineError
from engines.llamacpp import runner, scheduler
from engines.llamacpp.chat_template import ChatTemplate
from engines.llamacpp.detokenizer import Detokenizer
from engines.llamacpp.kv_slots import Copy, Keep, KvSlots, Move
from engines.llamacpp.runner import KvFull, Row, Runner
from engines.llamacpp.sampler import Sampler
from engines.llamacpp.scheduler import Plan, QueueFull, Scheduler
from engines.llamacpp.settings import read_settings, resolve
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
    Step,
    TokenEvent,
    Tokenize,
    Tokens,
    Unloaded,
)


@dataclass(eq=False)
class _Answer:
    """One request on its way to an answer."""

    request: Generate
    sequence: scheduler.Sequence
    sampler: Sampler
    text: Detokenizer
    prompt_tokens: int
    max_tokens: int
    written: int = 0
    """Tokens of the answer so far."""


class LlamaCppEngine:
    """Implements `engines.engine.TokenEngine`. The constructor loads the model, runs it once and raises
    `EngineError`. Settings: `engines.llamacpp.settings.Settings`."""

    def __init__(self, load: Load):
        settings, unknown = read_settings(load.settings)
        threads = load.threads or runner.usable_threads()
        self._runner = Runner(load.path, load.device, threads, settings)
        try:
            model = self._runner
            self._settings = resolve(
                settings,
                model.trained_context,
                on_gpu=load.device != "cpu",
                cell_bytes=model.cell_bytes(settings),
                free_bytes=runner.free_bytes(load.device),
            )
            self._template = ChatTemplate(model.chat_template, model.bos_text, model.eos_text)
            model.open_context(self._settings)
        except EngineError:
            self._runner.close()
            raise
        self._scheduler = Scheduler(
            KvSlots(
                self._settings.sequences,
                self._settings.kv_tokens,
                can_cut=model.can_cut,
                streams=self._settings.streams,
            ),
            busy_budget=self._settings.step_tokens,
            idle_budget=self._settings.batch_tokens,
            kv_tokens=self._settings.kv_tokens,
            queue_limit=self._settings.queue_limit,
        )
        self._answers: dict[int, _Answer] = {}
        self._announced: dict[int, TokenEvent] = {}
        notes = list(self._template.notes)
        if settings.context_tokens > self._settings.context_tokens:
            notes.append(
                f"The model was trained on {model.trained_context} tokens: the context is that long, "
                f"not {settings.context_tokens}."
            )
        if unknown:
            notes.append(f"llama.cpp has no setting named {', '.join(unknown)}.")
        self.ready = Ready(
            engine="llamacpp",
            engine_version=runner.version(),
            device=load.device,
            provider=runner.provider(),
            threads=threads,
            language=LanguageModel(
                context_tokens=self._settings.context_tokens,
                sequences=self._settings.sequences,
                vocabulary=model.vocabulary,
                chat_template=self._template.source,
                description=model.description,
                parameters=model.parameters,
            ),
            memory_bytes=runner.resident_bytes(),
            notes=notes,
        )

    @property
    def busy(self) -> bool:
        return bool(self._answers or self._announced)

    def submit(self, request: Generate, media: Sequence[bytes] = ()) -> None:
        if request.id in self._answers:
            raise EngineError("invalid_input", f"sequence {request.id} is already running", field="id")
        prompt, stop, field = self._prompt(request)
        context = self._settings.context_tokens
        if not prompt:
            raise EngineError("invalid_input", "the prompt is empty", field=field)
        if len(prompt) >= context:
            raise EngineError(
                "context_exceeded",
                f"the prompt has {len(prompt)} tokens; the context is {context}, prompt and answer together",
                hint="Shorten the prompt, or deploy with a larger context_tokens.",
                field=field,
            )
        if request.max_tokens < -1:
            raise EngineError("invalid_input", "max_tokens is negative", field="max_tokens")
        if "" in request.stop:
            raise EngineError("invalid_input", "a stop string is empty", field="stop")
        room = context - len(prompt)
        answer = _Answer(
            request,
            scheduler.Sequence(request.id, list(prompt), reuse=request.cache_prompt),
            Sampler(request.sampling, prompt),
            # Who wants no end of text does not want the template's own either.
            Detokenizer(request.stop + ([] if request.ignore_eos else stop)),
            prompt_tokens=len(prompt),
            max_tokens=room if request.max_tokens < 0 else min(request.max_tokens, room),
        )
        try:
            self._scheduler.submit(answer.sequence)
        except QueueFull:
            limit = self._settings.queue_limit
            raise EngineError("queue_full", f"{limit} sequences are waiting already") from None
        self._answers[request.id] = answer
        self._announced[request.id] = TokenEvent(request.id, prompt_tokens=len(prompt))

    def abort(self, request: Abort) -> None:
        self._announced.pop(request.id, None)
        if answer := self._answers.pop(request.id, None):
            self._scheduler.end(answer.sequence)

    def step(self) -> Step:
        started = time.perf_counter_ns()
        events = list(self._announced.values())
        self._announced.clear()
        plan = self._scheduler.schedule()
        try:
            logits = self._decode(plan)
            self._scheduler.commit(plan)
            sampling = [work.sequence for work in plan.work if work.outputs]
            events += [self._advance(self._answers[s.id], row) for s, row in zip(sampling, logits, strict=True)]
        except KvFull:
            # The scheduler counts cells, so this means that llama.cpp needs more of them than we think.
            if not self._scheduler.make_room():
                events += self._fail(plan, "out_of_memory", "the key-value memory is full")
        except EngineError as error:
            events += self._fail(plan, error.code, error.message)
        load = SchedulerLoad(self._scheduler.running, self._scheduler.waiting, self._scheduler.kv_used)
        return Step(events, load, (time.perf_counter_ns() - started) // 1000)

    def embed(self, requests: Sequence[Embed | Rank]) -> list[tuple[Embedded | Rejected, np.ndarray]]:
        return [(Rejected(r.id, "invalid_input", "this model gives no embeddings yet"), np.empty(0)) for r in requests]

    def unload(self) -> Unloaded:
        return Unloaded()

    def tokenize(self, request: Tokenize) -> Tokens:
        if request.messages is not None:
            text, special = self._template.render(request.messages)
            return Tokens(request.id, self._runner.tokenize(text, special), text)
        if request.text is None:
            raise EngineError("invalid_input", "neither text nor messages is given", field="text")
        return Tokens(request.id, self._runner.tokenize(request.text), request.text)

    def close(self) -> None:
        self._runner.close()

    def _prompt(self, request: Generate) -> tuple[list[int], list[str], str]:
        """(tokens, stop strings that the template needs, the field they come from)."""
        given = [f for f in ("messages", "prompt", "prompt_tokens") if getattr(request, f) is not None]
        if len(given) != 1:
            raise EngineError("invalid_input", "give exactly one of messages, prompt and prompt_tokens", field="prompt")
        if request.messages is not None:
            return self._runner.tokenize(*self._template.render(request.messages)), self._template.stop, "messages"
        if request.prompt is not None:
            # A tokenizer that begins every prompt with a special token would make nothing look like something.
            return self._runner.tokenize(request.prompt) if request.prompt else [], [], "prompt"
        tokens = request.prompt_tokens or []
        if any(not 0 <= token < self._runner.vocabulary for token in tokens):
            raise EngineError(
                "invalid_input", f"a token is not in 0…{self._runner.vocabulary - 1}", field="prompt_tokens"
            )
        return tokens, [], "prompt_tokens"

    def _decode(self, plan: Plan) -> np.ndarray:
        for action in plan.actions:
            if isinstance(action, Copy | Move):
                self._runner.copy(action.source, action.target, action.count)
                if isinstance(action, Move):
                    self._runner.keep(action.source, 0)
            elif isinstance(action, Keep):
                self._runner.keep(action.slot, action.count)
        if not plan.work:
            return np.empty((0, self._runner.vocabulary), np.float32)
        return self._runner.decode(Row(work.sequence.slot, work.start, work.tokens, work.outputs) for work in plan.work)

    def _advance(self, answer: _Answer, logits: np.ndarray) -> TokenEvent:
        """Sample the next token of one sequence and say what became of it."""
        request = answer.request
        if answer.max_tokens == 0:
            return self._finish(answer, "length", "", 0)
        free_to_end = answer.written >= request.min_tokens
        banned = None if free_to_end and not request.ignore_eos else self._runner.end_tokens
        try:
            token = answer.sampler.sample(logits, banned)
        except EngineError as error:
            return self._drop(answer, error.code, error.message)
        answer.written += 1
        cached = answer.sequence.reused if answer.written == 1 else 0
        if self._runner.is_end(token):
            return self._finish(answer, "stop", answer.text.flush(), 1)
        text = answer.text.feed(self._runner.piece(token), may_stop=answer.written > request.min_tokens)
        if answer.text.stopped:
            return self._finish(answer, "stop", text, 1)
        if answer.written == answer.max_tokens:
            return self._finish(answer, "length", text + answer.text.flush(), 1)
        answer.sequence.tokens.append(token)
        return TokenEvent(request.id, text, 1, cached_tokens=cached)

    def _finish(self, answer: _Answer, reason: str, text: str, tokens: int) -> TokenEvent:
        del self._answers[answer.request.id]
        self._scheduler.end(answer.sequence)
        return TokenEvent(answer.request.id, text, tokens, reason, answer.prompt_tokens, answer.sequence.reused)

    def _drop(self, answer: _Answer, code: str, message: str) -> TokenEvent:
        del self._answers[answer.request.id]
        self._scheduler.end(answer.sequence, keep=False)
        return TokenEvent(answer.request.id, error_code=code, error_message=message)

    def _fail(self, plan: Plan, code: str, message: str) -> list[TokenEvent]:
        """End the sequences of a step that could not be computed; those that wait go on."""
        return [self._drop(self._answers[work.sequence.id], code, message) for work in plan.work]

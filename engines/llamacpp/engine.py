"""The llama.cpp engine that writes text: our own continuous batching over one llama.cpp context."""

import time
import traceback
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from engines.engine import EngineError
from engines.llamacpp import scheduler
from engines.llamacpp.adapters import Adapters
from engines.llamacpp.answer import Answer
from engines.llamacpp.chat_format import ChatFormat
from engines.llamacpp.detokenizer import Detokenizer
from engines.llamacpp.draft_model import DraftModel
from engines.llamacpp.drafter import NGramDrafter, Pace
from engines.llamacpp.embedder import Embedder
from engines.llamacpp.grammar import Grammars
from engines.llamacpp.kv_slots import Copy, Keep, KvSlots, MemoryAction, Move, Restore, Save
from engines.llamacpp.prefix_store import PrefixStore
from engines.llamacpp.prompt import Prompt, Reader
from engines.llamacpp.runner import KvFull, Row, Runner
from engines.llamacpp.sampler import Sampler
from engines.llamacpp.scheduler import Plan, QueueFull, Scheduler
from engines.llamacpp.settings import Settings
from engines.llamacpp.vision import Projector
from engines.protocol import (
    Abort,
    Embed,
    Embedded,
    Generate,
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

#: Guessing ahead pays while a decode has room to spare: with more answers at once it only makes the step longer.
DRAFTING_ANSWERS = 4


class TextEngine:
    """Implements `engines.engine.TokenEngine`. Everything it is given is loaded; it closes it."""

    def __init__(
        self,
        ready: Ready,
        model: Runner,
        settings: Settings,
        format: ChatFormat,
        *,
        adapters: Adapters,
        embedder: Embedder,
        projector: Projector | None,
        draft: DraftModel | None,
        cache_folder: Path | None,
        fingerprint: str,
    ):
        """``cache_folder`` None: computed prefixes are not kept on disk. ``fingerprint``: see `PrefixStore.save`."""
        self.ready = ready
        self._runner, self._settings = model, settings
        self._adapters, self._embedder, self._projector, self._draft = adapters, embedder, projector, draft
        self._cache_folder, self._fingerprint = cache_folder, fingerprint
        self._store = PrefixStore()
        self._reader = Reader(model, format, projector)
        self._scheduler = Scheduler(
            KvSlots(
                settings.sequences,
                settings.kv_tokens,
                can_cut=model.can_cut,
                streams=settings.streams,
                store_bytes=settings.prefix_cache_mb << 20,
                window=model.window,
            ),
            busy_budget=settings.step_tokens,
            idle_budget=settings.batch_tokens,
            kv_tokens=settings.kv_tokens,
            queue_limit=settings.queue_limit,
        )
        if cache_folder is not None:
            self._store.load(cache_folder, fingerprint, self._scheduler.adopt)
        self._answers: dict[int, Answer] = {}
        self._announced: dict[int, TokenEvent] = {}
        self._steps = self._decode_ns = 0

    @cached_property
    def _grammars(self) -> Grammars:
        # To find the end tokens asks about the whole vocabulary: only who needs them waits for that.
        return Grammars(self._runner.vocab, self._runner.end_tokens.tolist())

    @property
    def busy(self) -> bool:
        return bool(self._answers or self._announced)

    def submit(self, request: Generate, media: Sequence[bytes] = ()) -> None:
        if request.id in self._answers:
            raise EngineError("invalid_input", f"sequence {request.id} is already running", field="id")
        if request.adapter:
            self._adapters[request.adapter]  # raises where there is none of that name
        prompt = self._reader.read(request, media)
        self._check(request, prompt)
        room = self._settings.context_tokens - len(prompt.tokens)
        constraint = self._grammars.compile(prompt.grammar, prompt.lazy) if prompt.grammar else None
        answer = Answer(
            request,
            scheduler.Sequence(
                request.id,
                list(prompt.tokens),
                # With M-RoPE what comes after a picture cannot be cut back by counting cells.
                reuse=request.cache_prompt and not (prompt.images and self._projector and self._projector.m_rope),
                priority=request.priority,
                group=request.adapter,
                spans=prompt.spans,
            ),
            Sampler(request.sampling, prompt.text_tokens, self._runner.vocab, self._settings.context_tokens),
            Detokenizer(request.stop + prompt.stop),
            prompt,
            max_tokens=room if request.max_tokens < 0 else min(request.max_tokens, room),
            constraint=constraint,
        )
        if self._settings.speculative != "off" and self._runner.can_cut and not prompt.images:
            answer.drafter = self._draft.drafter() if self._draft is not None else NGramDrafter()
            answer.pace = Pace(self._settings.draft_tokens)
        try:
            self._scheduler.submit(answer.sequence)
        except QueueFull:
            limit = self._settings.queue_limit
            raise EngineError("queue_full", f"{limit} sequences are waiting already") from None
        self._answers[request.id] = answer
        self._announced[request.id] = TokenEvent(request.id, prompt_tokens=len(prompt.tokens))

    def abort(self, request: Abort) -> None:
        self._announced.pop(request.id, None)
        if answer := self._answers.get(request.id):
            self._end(answer)

    def step(self) -> Step:
        events = list(self._announced.values())
        self._announced.clear()
        self._guess()
        plan = self._scheduler.schedule()
        try:
            if self._change_memory(plan.actions):
                decoding = time.perf_counter_ns()
                events += self._show_pictures(plan)
                logits = self._decode(plan)
                self._decode_ns += time.perf_counter_ns() - decoding
                self._steps += 1
                self._scheduler.commit(plan)
                events += self._sample(plan, logits)
        except KvFull:
            # The scheduler counts cells, so this means that llama.cpp needs more of them than we think.
            if not self._scheduler.make_room():
                events += self._fail(plan, EngineError("out_of_memory", "the key-value memory is full"))
        except EngineError as error:
            events += self._fail(plan, error)
        return Step(events, self._load())

    def embed(self, requests: Sequence[Embed | Rank]) -> list[tuple[Embedded | Rejected, np.ndarray]]:
        return self._embedder.answer(requests)

    def tokenize(self, request: Tokenize) -> Tokens:
        return self._reader.tokenize(request)

    def unload(self) -> Unloaded:
        if self._cache_folder is None:
            return Unloaded()
        self._change_memory(self._scheduler.save_all())
        prefixes = self._scheduler.prefixes()
        room = self._settings.prefix_disk_mb << 20
        kept = []
        for prefix in reversed(prefixes):
            state = self._store.get(prefix.key)
            if state is not None and state.nbytes <= room:
                room -= state.nbytes
                kept.append(prefix)
        return Unloaded(self._store.save(self._cache_folder, self._fingerprint, reversed(kept)))

    def close(self) -> None:
        for answer in list(self._answers.values()):
            self._end(answer)
        self._embedder.close()
        for part in (self._projector, self._draft):
            if part is not None:
                part.close()
        self._runner.close_context()
        self._adapters.close()
        self._runner.close()

    # --- inside -------------------------------------------------------------------------------------------

    def _check(self, request: Generate, prompt: Prompt) -> None:
        context, length = self._settings.context_tokens, len(prompt.tokens)
        if not length:
            raise EngineError("invalid_input", "the prompt is empty", field=prompt.source)
        if prompt.tokens[-1] < 0:
            raise EngineError("invalid_input", "the prompt ends in a picture: nothing could follow", field="messages")
        if length >= context:
            raise EngineError(
                "context_exceeded",
                f"the prompt has {length} tokens; the context is {context}, prompt and answer together",
                hint="Shorten the prompt, or deploy with a larger context_tokens.",
                field=prompt.source,
            )
        if request.max_tokens < -1:
            raise EngineError("invalid_input", "max_tokens is negative", field="max_tokens")
        if "" in request.stop:
            raise EngineError("invalid_input", "a stop string is empty", field="stop")

    def _load(self) -> SchedulerLoad:
        s = self._scheduler
        return SchedulerLoad(
            s.running,
            s.waiting,
            s.kv_used,
            s.cache_bytes,
            s.preempted,
            s.drafted,
            s.accepted,
            steps=self._steps,
            decode_us=self._decode_ns // 1000,
        )

    def _guess(self) -> None:
        """Let answers that can guess ahead do so, while there are few of them."""
        if self._settings.speculative == "off" or len(self._answers) > DRAFTING_ANSWERS:
            return
        for answer in self._answers.values():
            answer.guess()

    def _change_memory(self, actions: Sequence[MemoryAction]) -> bool:
        """Whether what was planned can be decoded."""
        for i, action in enumerate(actions):
            match action:
                case Keep(slot, count):
                    self._runner.keep(slot, count)
                case Copy(source, target, count):
                    self._runner.copy(source, target, count)
                case Move(source, target, count):
                    self._runner.copy(source, target, count)
                    self._runner.keep(source, 0)
                case Save(slot, key):
                    self._store.drop(self._scheduler.saved(key, self._save(slot, key)))
                case Restore(key, slot, count):
                    if not self._restore(key, slot, count):
                        self._store.drop([key])
                        self._change_memory(self._scheduler.not_restored(list(actions[i:])))
                        return False
        return True

    def _save(self, slot: int, key: int) -> int:
        """The bytes that it takes; 0 where it could not be saved."""
        try:
            state = self._runner.save(slot)
        except (EngineError, MemoryError):
            return 0
        self._store.put(key, state)
        return state.nbytes

    def _restore(self, key: int, slot: int, count: int) -> bool:
        state = self._store.get(key)
        if state is None:
            return False
        try:
            self._runner.restore(slot, state, count)
        except (EngineError, MemoryError):
            return False
        return True

    def _show_pictures(self, plan: Plan) -> list[TokenEvent]:
        """Compute the pictures of ``plan``; the answer to one that cannot be is ended, and leaves ``plan``."""
        pictures = [work for work in plan.work if work.span >= 0]
        if not pictures:
            return []
        assert self._projector is not None
        events = []
        self._adapters.apply(self._runner.context, pictures[0].sequence.group)
        for work in pictures:
            answer, slot = self._answers[work.sequence.id], work.sequence.slot
            position = answer.prompt.position(work.start)
            # What an earlier attempt may have left there, had the rest of its step not fit.
            self._runner.keep(slot, position)
            try:
                self._projector.decode(self._runner.context, answer.prompt.images[work.span][1], position, slot)
            except EngineError as error:
                plan.work.remove(work)
                events.append(self._drop(answer, error))
        return events

    def _decode(self, plan: Plan) -> np.ndarray:
        texts = [work for work in plan.work if work.span < 0]
        if not texts:
            return np.empty((0, self._runner.vocabulary), np.float32)
        self._adapters.apply(self._runner.context, texts[0].sequence.group)
        return self._runner.decode(
            Row(
                work.sequence.slot,
                self._answers[work.sequence.id].prompt.position(work.start),
                work.tokens,
                work.outputs,
            )
            for work in texts
        )

    def _sample(self, plan: Plan, logits: np.ndarray) -> list[TokenEvent]:
        events = []
        start = 0
        for work in plan.work:
            if not work.outputs:
                continue
            answer = self._answers[work.sequence.id]
            rows = logits[start : start + work.outputs]
            start += work.outputs
            try:
                event = answer.advance(rows, list(work.sequence.draft), self._runner)
            except EngineError as error:
                events.append(self._drop(answer, error))
                continue
            except Exception as error:  # a defect that one request shows must not end the others
                traceback.print_exc()
                reason = f"{type(error).__name__}: {error}"[:400]
                events.append(self._drop(answer, EngineError("engine_failed", reason)))
                continue
            events.append(event)
            if answer.ended:
                self._end(answer)
            else:
                self._scheduler.accept(work.sequence, answer.tokens)
        return events

    def _end(self, answer: Answer, keep: bool = True) -> None:
        del self._answers[answer.request.id]
        self._scheduler.end(answer.sequence, keep)
        answer.close()

    def _drop(self, answer: Answer, error: EngineError) -> TokenEvent:
        self._end(answer, keep=False)
        return TokenEvent(answer.request.id, error_code=error.code, error_message=error.message)

    def _fail(self, plan: Plan, error: EngineError) -> list[TokenEvent]:
        """End the sequences of a step that could not be computed; those that wait go on."""
        return [self._drop(self._answers[work.sequence.id], error) for work in plan.work]

"""From a file to an engine: one that writes text, or one that only embeds or ranks."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from engines.engine import EngineError, TokenEngine
from engines.llamacpp import log, runner
from engines.llamacpp.adapters import Adapters
from engines.llamacpp.chat_format import ChatFormat
from engines.llamacpp.draft_model import DraftModel
from engines.llamacpp.embedder import Embedder, purpose
from engines.llamacpp.embedding_engine import EmbeddingEngine
from engines.llamacpp.engine import TextEngine
from engines.llamacpp.runner import Runner
from engines.llamacpp.settings import Settings, read_settings, resolve
from engines.llamacpp.vision import Projector
from engines.protocol import LanguageModel, Load, Ready


def open_model(load: Load) -> TokenEngine:
    """Load the model, run it once, and say what it is. Settings: `engines.llamacpp.settings.Settings`.

    Raises `EngineError` with a code of `protocol.Failed`; then nothing is left in memory.
    """
    settings, unknown = read_settings(load.settings)
    threads = load.threads or runner.usable_threads()
    free_before = runner.free_bytes(load.device) if load.device != "cpu" else 0
    model = Runner(load.path, load.device, threads, settings)
    notes = [f"llama.cpp has no setting named {', '.join(unknown)}."] if unknown else []
    if settings.context_tokens > model.trained_context > 0:
        notes.append(
            f"The model was trained on {model.trained_context} tokens: the context is that long, "
            f"not {settings.context_tokens}."
        )
    if (layers := log.offloaded()) is not None and load.device != "cpu":
        notes.append(f"{layers[0]} of {layers[1]} layers are on {load.device}.")
    try:
        engine: TokenEngine
        if purpose(model) == "generate":
            engine = _text_engine(load, model, settings, threads, notes)
        else:
            engine = _embedding_engine(load, model, settings, threads, notes)
    except BaseException:
        model.close()
        raise
    if free_before:
        engine.ready.device_memory_bytes = max(0, free_before - runner.free_bytes(load.device))
    return engine


def _text_engine(load: Load, model: Runner, settings: Settings, threads: int, notes: list[str]) -> TextEngine:
    on_gpu = load.device != "cpu"
    settings = resolve(
        settings,
        model.trained_context,
        on_gpu,
        cell_bytes=model.cell_bytes(settings),
        free_bytes=runner.free_bytes(load.device),
    )
    format = ChatFormat(model.chat_template, model.bos_text, model.eos_text, model.is_special)
    names = {key.removeprefix("adapter:"): path for key, path in load.files.items() if key.startswith("adapter:")}
    with ExitStack() as stack:
        adapters = Adapters(model.model, names)
        stack.callback(adapters.close)
        stack.callback(model.close_context)
        projector = draft = None
        if path := load.files.get("projector"):
            projector = Projector(path, model.model, threads, on_gpu)
            stack.callback(projector.close)
        if settings.speculative == "draft":
            if not (path := load.files.get("draft")):
                raise EngineError("bad_setting", "speculative draft needs a draft model", hint="Deploy with a draft.")
            draft = DraftModel(path, model, load.device, threads, settings.sequences, settings.context_tokens)
            stack.callback(draft.close)
        # A picture all of which sees all of it is computed in one pass.
        model.open_context(settings, *([settings.batch_tokens] if projector is not None else []))
        stack.pop_all()
    if settings.speculative != "off" and not model.can_cut:
        notes.append("This model's state cannot be cut back, so nothing is guessed ahead.")
    embedder = Embedder(model, settings.context_tokens, threads, on_gpu, settings.pooling)
    capabilities = ["completion", *format.capabilities]
    if projector is not None and projector.supports_vision:
        capabilities.append("vision")
    language = LanguageModel(
        context_tokens=settings.context_tokens,
        sequences=settings.sequences,
        chat_template=format.source,
        capabilities=[*capabilities, "embedding"],
        pooling=embedder.pooling,
        adapters=adapters.names,
        template=format.template,
        **_about(model),
    )
    files = " ".join(f"{key}={_identity(path)}" for key, path in sorted(load.files.items()))
    caches = f"{settings.cache_type_k} {settings.cache_type_v} {settings.swa_full}"
    return TextEngine(
        _ready(load, threads, language, [*notes, *format.notes]),
        model,
        settings,
        format,
        adapters=adapters,
        embedder=embedder,
        projector=projector,
        draft=draft,
        cache_folder=Path(load.cache_folder) if load.cache_folder and settings.prefix_disk_mb else None,
        fingerprint=f"{runner.version()} {caches} {_identity(load.path)} {files}",
    )


def _identity(path: str) -> str:
    """The file behind a name: what the store of models keeps is never changed, only replaced."""
    status = Path(path).stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def _embedding_engine(
    load: Load, model: Runner, settings: Settings, threads: int, notes: list[str]
) -> EmbeddingEngine:
    context = settings.context_tokens or model.trained_context
    embedder = Embedder(model, context, threads, load.device != "cpu", settings.pooling)
    try:
        embedder.open()
    except EngineError:
        embedder.close()
        raise
    language = LanguageModel(
        context_tokens=embedder.context_tokens,
        sequences=settings.sequences,
        chat_template="",
        capabilities=["rerank" if embedder.pooling == "rank" else "embedding"],
        pooling=embedder.pooling,
        **_about(model),
    )
    return EmbeddingEngine(_ready(load, threads, language, notes), model, embedder)


def _about(model: Runner) -> dict[str, Any]:
    return {
        "vocabulary": model.vocabulary,
        "description": model.description,
        "parameters": model.parameters,
        "architecture": model.architecture,
        "quantization": model.quantization,
        "trained_context": model.trained_context,
        "embedding_length": model.embedding_length,
    }


def _ready(load: Load, threads: int, language: LanguageModel, notes: list[str]) -> Ready:
    return Ready(
        engine="llamacpp",
        engine_version=runner.version(),
        device=load.device,
        provider=runner.provider(),
        threads=threads,
        language=language,
        memory_bytes=runner.resident_bytes(),
        notes=notes,
    )

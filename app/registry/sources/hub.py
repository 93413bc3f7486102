"""``hf:org/repo[@revision][:file]``: the model hub.

huggingface_hub answers for metadata, revisions, search and authentication; it is imported when first needed, in a
thread. The transfer is ours: the library neither resumes in another process nor checks a digest over plain HTTP.
"""

import asyncio
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from app.errors import InvalidInput, SourceUnreachable
from app.registry.sources.plan import Output, Part, Plan, Remote, Wanted
from app.settings import Settings

_REFERENCE = re.compile(r"hf:([\w.-]+/[\w.-]+|[\w.-]+)(?:@([^:@]+))?(?::(.+))?")
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_TIMEOUT_S = 15
_PROJECTOR = "mmproj"
#: Of projectors, best first: small, and quantised ones see worse.
_TYPES = ("f16", "bf16", "f32", "q8_0")
#: Files that a tensor model's engine or its tokenizer may want, taken along when they are there.
_COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json", "vocab.txt")
_TASKS = {"sentence-similarity": "embedding", "feature-extraction": "embedding", "text-ranking": "rerank"}


class Reference(NamedTuple):
    repository: str
    revision: str | None
    file: str | None


class HubFile(NamedTuple):
    path: str
    size_bytes: int | None
    sha256: str | None


def parse(ref: str) -> Reference:
    """Raises `InvalidInput`."""
    if not (match := _REFERENCE.fullmatch(ref)) or ".." in match[1]:
        raise InvalidInput(f"{ref!r} does not name a repository", hint="hf:org/repo[@revision][:file]", field="ref")
    return Reference(match[1], match[2], match[3])


def choose(paths: Sequence[str], wanted: str | None) -> list[str]:
    """Which files of a repository are the model; the first is its primary one.

    ``wanted`` is a path, or a part of a name that only one file has (``Q4_K_M``). Without it: the only GGUF, or
    the one in Q4_K_M; the only ONNX file, or ``onnx/model.onnx``. A multimodal projector comes along with its GGUF,
    and is had alone by its name. Raises `InvalidInput` listing the choices.
    """
    alone = wanted is not None and _PROJECTOR in wanted.lower()
    models = sorted(path for path in paths if path.endswith((".gguf", ".onnx")) and (alone or not _is_aside(path)))
    firsts = [path for path in models if not (shard := _SHARD.fullmatch(path)) or int(shard[2]) == 1]
    if wanted is not None:
        found = [path for path in models if path == wanted]
        found = found or [path for path in firsts if wanted.lower() in path.rpartition("/")[2].lower()]
    else:
        ggufs = [path for path in firsts if path.endswith(".gguf")]
        onnxes = [path for path in firsts if path.endswith(".onnx")]
        found = ggufs or onnxes
        if len(ggufs) > 1:
            found = [path for path in ggufs if "q4_k_m" in path.lower()] or ggufs
        elif not ggufs and len(onnxes) > 1:
            found = [path for path in onnxes if path in ("onnx/model.onnx", "model.onnx")][-1:] or onnxes
    if len(found) == 1:
        return [found[0], *_belonging(found[0], paths)]
    if not models:
        kinds = sorted({path.rpartition(".")[2] for path in paths if path.endswith((".safetensors", ".bin", ".pt"))})
        has = f"; it has {', '.join(kinds)}" if kinds else ""
        raise InvalidInput(f"the repository has no .gguf and no .onnx file{has}", field="ref")
    choices = ", ".join(found or firsts)
    what = "has several models" if wanted is None else f"has no single file {wanted!r}"
    raise InvalidInput(f"the repository {what}", hint=f"add one of these after a colon: {choices}", field="ref")


def _belonging(primary: str, paths: Sequence[str]) -> list[str]:
    if shard := _SHARD.fullmatch(primary):
        shards = [path for path in paths if path.startswith(f"{shard[1]}-") and _SHARD.fullmatch(path)]
        return [*sorted(path for path in shards if path != primary), *_projector(primary, paths)]
    if primary.endswith(".gguf"):
        return [] if _is_aside(primary) else _projector(primary, paths)
    folder = primary.rpartition("/")[0]
    weights = [path for path in paths if path in (f"{primary}_data", f"{primary}.data")]
    places = [f"{folder}/" if folder else "", ""]  # beside the model, or else at the root
    companions = [next((p + name for p in places if p + name in paths), None) for name in _COMPANIONS]
    return [*weights, *(path for path in companions if path)]


def _is_aside(path: str) -> bool:
    """A GGUF file that is no model: a projector, or the matrix that quantising was steered by."""
    name = path.rpartition("/")[2].lower()
    return _PROJECTOR in name or "imatrix" in name


def _projector(primary: str, paths: Sequence[str]) -> list[str]:
    """The multimodal projector to take along: of those beside the model, or else anywhere, the preferred type."""
    found = sorted(path for path in paths if path.endswith(".gguf") and _PROJECTOR in path.rpartition("/")[2].lower())
    folder = primary.rpartition("/")[0]
    found = [path for path in found if path.rpartition("/")[0] == folder] or found
    # "bf16" has "f16" in it.
    ranked = [[path for path in found if re.search(rf"(?<![a-z]){kind}(?![0-9])", path.lower())] for kind in _TYPES]
    return next((paths for paths in ranked if paths), found)[:1]


def endpoint(settings: Settings) -> str | None:
    """The hub to ask; `None` is the public one."""
    return (settings.hub_endpoint or os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None


def offline(settings: Settings) -> bool:
    return settings.offline or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def token() -> str | None:
    """The user's token (HF_TOKEN, or what a log-in left). Blocks; imports huggingface_hub."""
    import huggingface_hub

    return huggingface_hub.get_token()


async def plan(wanted: Wanted, settings: Settings) -> Plan:
    """Ask the hub and pin its answer to a commit.

    Raises `SourceUnreachable` (offline, no answer, gated, no such repository), `InvalidInput` (no such file).
    """
    _refuse_offline(settings)
    reference = parse(wanted.ref)
    return await asyncio.to_thread(_plan, wanted, reference, endpoint(settings))


def _library(endpoint: str | None) -> tuple[Any, str]:
    """huggingface_hub, and the address that it asks."""
    import huggingface_hub
    from huggingface_hub import constants

    if endpoint:
        # Beside what it is asked for, it asks its default hub for lists of its own: those go to the chosen one too.
        constants.ENDPOINT = endpoint
    return huggingface_hub, constants.ENDPOINT


def _plan(wanted: Wanted, reference: Reference, endpoint: str | None) -> Plan:
    huggingface_hub, address = _library(endpoint)
    with _Failures(reference.repository):
        info = huggingface_hub.HfApi(endpoint=address).model_info(
            reference.repository, revision=reference.revision, files_metadata=True, timeout=_TIMEOUT_S
        )
    files = {
        file.rfilename: HubFile(file.rfilename, file.size, file.lfs.sha256 if file.lfs else None)
        for file in info.siblings or []
    }
    chosen = [files[path] for path in choose(list(files), reference.file)]
    digests = [wanted.sha256 or chosen[0].sha256, *(file.sha256 for file in chosen[1:])]
    remotes = [
        Remote(
            f"{address}/{reference.repository}/resolve/{info.sha}/{quote(file.path)}",
            file.path.rpartition("/")[2],
            file.size_bytes,
            hub=True,
        )
        for file in chosen
    ]
    card: dict[str, Any] = info.card_data.to_dict() if info.card_data else {}
    return Plan(
        source=f"hf:{reference.repository}@{info.sha}:{chosen[0].path}",
        remotes=remotes,
        outputs=[
            Output(remote.name, [Part(index)], remote.size_bytes, digests[index])
            for index, remote in enumerate(remotes)
        ],
        task=_TASKS.get(info.pipeline_tag or "", info.pipeline_tag),
        licence=str(card.get("license_name") or card.get("license") or ""),
        description=f"{reference.repository} from the hub",
        metadata={"revision": info.sha},
    )


class Found(NamedTuple):
    ref: str
    downloads: int
    task: str | None
    gated: bool


async def search(query: str, settings: Settings, limit: int = 20) -> list[Found]:
    """Repositories whose name matches, most downloaded first. Raises `SourceUnreachable`."""
    _refuse_offline(settings)

    def ask() -> list[Found]:
        huggingface_hub, address = _library(endpoint(settings))
        with _Failures(query):
            models = huggingface_hub.HfApi(endpoint=address).list_models(search=query, sort="downloads", limit=limit)
            return [
                Found(f"hf:{model.id}", model.downloads or 0, model.pipeline_tag, bool(model.gated)) for model in models
            ]

    return await asyncio.to_thread(ask)


def _refuse_offline(settings: Settings) -> None:
    if offline(settings):
        raise SourceUnreachable(
            "the hub was not asked: offline is set", hint="unset PILOTHOUSE_OFFLINE and HF_HUB_OFFLINE"
        )


class _Failures:
    """Turns what huggingface_hub raises into `SourceUnreachable`, whatever HTTP library it uses underneath."""

    def __init__(self, subject: str):
        self._subject = subject

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, Exception):
            return
        from huggingface_hub import errors

        subject, hint = self._subject, ""
        if isinstance(error, errors.GatedRepoError):
            message = f"{subject} is gated"
            hint = "accept its terms on the hub, then set HF_TOKEN to your token and try again"
        elif isinstance(error, errors.RevisionNotFoundError):
            message = f"{subject} has no such revision"
        elif isinstance(error, errors.RepositoryNotFoundError):
            message = f"the hub has no {subject}, or it is private"
            hint = "check its spelling; for a private one set HF_TOKEN"
        elif isinstance(error, errors.HfHubHTTPError) and error.response is not None:
            message = f"the hub answered {error.response.status_code} for {subject}"
        else:
            message = "the hub did not answer"
            hint = f"is this machine online? ({type(error).__name__})"
        raise SourceUnreachable(message, hint=hint) from error

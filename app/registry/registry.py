"""The registry: which models are here, in which versions, from where. The one writer of its two tables."""

import asyncio
import contextlib
import difflib
import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import sqlite_utils

from app.clock import timestamp
from app.db import Store
from app.errors import ArtifactCorrupt, Conflict, InvalidInput, ModelNotFound, NotFound
from app.events import Bus
from app.paths import DataDir, resource
from app.registry import cards
from app.registry.artifacts import Artifacts, digest_of, link_or_copy
from app.registry.names import check_name, check_path, split_reference
from app.schema.manage import Model, ModelFile, Sample, Version
from engines.card import Card

EMBEDDED = "digits"
#: Columns of a version that hold JSON.
_JSON = ("files", "certificate", "metadata", "card")


class Registry:
    """Models and their versions, all in memory, every change first committed to the database.

    Every change is published as event kind ``model``. Used from the event loop only.
    """

    def __init__(self, store: Store, data: DataDir, bus: Bus):
        self._store, self._data, self._bus = store, data, bus
        self.artifacts = Artifacts(data.artifacts)
        self._models: dict[str, Model] = {}
        self._writing = asyncio.Lock()

    async def load(self) -> None:
        """Read everything, mend what an interrupted change left behind, publish every model."""
        models, versions = await self._store.run(lambda db: (list(db["models"].rows), list(db["versions"].rows)))
        grouped: dict[str, list[Version]] = {row["name"]: [] for row in models}
        for row in sorted(versions, key=lambda row: row["version"]):
            grouped[row["model"]].append(_version(row))
        self._models = {row["name"]: _with_versions(Model(**row), grouped[row["name"]]) for row in models}
        await asyncio.to_thread(self._tidy)
        await asyncio.to_thread(self._drop_incoming)
        for name in self._models:
            self._publish(name)

    def models(self) -> list[Model]:
        """Every model, by name; versions oldest first."""
        return [self._models[name] for name in sorted(self._models)]

    def get(self, name: str) -> Model:
        """Raises `ModelNotFound`; its hint names what was perhaps meant."""
        if (model := self._models.get(name)) is not None:
            return model
        near = difflib.get_close_matches(name, self._models, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "`pilothouse models` lists what is here"
        raise ModelNotFound(f"there is no model named {name!r}", hint=hint, field="model")

    def resolve(self, reference: str) -> tuple[Model, Version]:
        """``NAME[@VERSION]``, the newest without one. Raises `ModelNotFound`, `InvalidInput`."""
        name, number = split_reference(reference)
        model = self.get(name)
        if number is None:
            return model, model.versions[-1]
        return model, self._version_of(model, number)

    def path(self, name: str, version: int) -> Path:
        """The primary file of a version, under the name its engine expects.

        Raises `ModelNotFound`, and `ArtifactCorrupt` if the file has gone from the disk.
        """
        entry = self._version_of(self.get(name), version)
        path = self._folder(name, version) / entry.files[0].path
        if not path.exists():
            raise ArtifactCorrupt(
                f"the file of {name}@{version} is missing from the data directory",
                hint=f"`pilothouse rm {name}@{version}`, then get it again from {entry.source}",
            )
        return path

    def part(self, name: str, version: int, word: str) -> Path | None:
        """The file beside the model of a version whose name has ``word`` in it."""
        entry = self._version_of(self.get(name), version)
        found = next((file.path for file in entry.files[1:] if word in file.path.lower()), None)
        return self._folder(name, version) / found if found else None

    def prefixes(self, version: Version) -> Path:
        """Where the prefixes that were computed with this very file are kept; it goes with the last such version."""
        return self._data.prefixes / version.digest.removeprefix("sha256:")

    async def add_version(
        self,
        name: str,
        *,
        task: str,
        files: Sequence[tuple[str, Path]],
        format: str,
        precision: str | None,
        source: str,
        licence: str = "",
        description: str = "",
        metadata: Mapping[str, Any] | None = None,
        card: Card | None = None,
        parent: int | None = None,
        expected: Mapping[str, str] | None = None,
    ) -> Version:
        """Take files in as the next version of ``name``; the first one is the model.

        ``files`` are (path relative to the version's folder, finished file): the files are moved in, and only
        once the version is committed. ``expected`` has sha256 digests by relative path. The same files again
        are the version that has them already, with the new ``card`` if there is one.

        Raises `ArtifactCorrupt` for a digest that differs (nothing is registered), `InvalidInput` for a name, or a
        card that needs a file which is not among them.
        """
        check_name(name)
        if card is not None:
            _check_files(card, [path for path, _ in files])
        if not files:
            raise ValueError("a version has at least one file")
        async with self._writing:
            entries = [
                await asyncio.to_thread(self._adopt, check_path(path), file, (expected or {}).get(path))
                for path, file in files
            ]
            model = self._models.get(name)
            version = next((known for known in model.versions if _has(known, entries)), None) if model else None
            if version is not None and model is not None and card is not None:
                version = await self._describe(model, version, card, {}, model.task)
            elif version is None:
                version = Version(
                    version=1 + max((known.version for known in model.versions), default=0) if model else 1,
                    format=format,
                    precision=precision,
                    size_bytes=sum(entry.size_bytes for entry in entries),
                    digest=entries[0].digest,
                    files=entries,
                    source=source,
                    created=timestamp(),
                    parent=parent,
                    metadata=dict(metadata or {}),
                    card=msgspec.to_builtins(card) if card is not None else {},
                )
                model = model or Model(name=name, task=task, licence=licence, description=description)
                await asyncio.to_thread(self._link, name, version)
                await self._store.run(lambda db: _insert(db, model, version))
                self._models[name] = _with_versions(model, [*model.versions, version])
                self._publish(name)
        for _, file in files:
            file.unlink(missing_ok=True)
        return version

    def incoming(self, name: str) -> Path:
        """A place on the registry's own disk for a file ``name`` that `describe` shall take in. Raises `InvalidInput`
        for a name that none may have."""
        return self._data.downloads / f"{secrets.token_hex(8)}-{check_path(name)}"

    async def describe(
        self,
        name: str,
        version: int,
        card: Card | None = None,
        files: Sequence[tuple[str, Path]] = (),
        task: str | None = None,
    ) -> Version:
        """Declare what a version is; a ``card`` of `None` leaves the one that it has.

        ``files`` are moved in as for `add_version`, and join those beside the model or take their places. The digest
        stays: no weight changes. The model's task is ``task``, or guessed from the card where none is known.

        Raises `ModelNotFound`, `InvalidInput` for a language model, for a card that needs a file which is not there,
        or for a file that would replace the model.
        """
        async with self._writing:
            model = self.get(name)
            entry = self._version_of(model, version)
            if entry.format == "gguf":
                raise InvalidInput(
                    f"{name}@{version} is a GGUF model, which says of itself what it is",
                    hint="cards are for tensor models",
                    field="model",
                )
            if any(check_path(path) == entry.files[0].path for path, _ in files):
                raise InvalidInput(
                    f"{entry.files[0].path} is the model itself", hint="pull another version instead", field="file"
                )
            joining = {path: await asyncio.to_thread(self._adopt, path, file, None) for path, file in files}
            card = cards.check(entry.card) if card is None else card
            entry = await self._describe(model, entry, card, joining, task)
        for _, file in files:
            file.unlink(missing_ok=True)
        return entry

    async def _describe(
        self, model: Model, entry: Version, card: Card, joining: Mapping[str, ModelFile], task: str | None
    ) -> Version:
        kept = [file for file in entry.files if file.path not in joining]
        files = [*kept, *joining.values()]
        _check_files(card, [file.path for file in files])
        described = msgspec.structs.replace(
            entry,
            card=msgspec.to_builtins(card),
            files=files,
            size_bytes=sum(file.size_bytes for file in files),
        )
        task = task or (cards.task(card) if model.task in ("", "tensor") else "") or model.task
        if described == entry and task == model.task:
            return entry
        for file in entry.files:
            if file.path in joining and file != joining[file.path]:
                # Before it is committed: what an interrupted change leaves out is linked anew at the next start.
                (self._folder(model.name, entry.version) / file.path).unlink(missing_ok=True)
        await self._store.run(lambda db: _update(db, model.name, task, described))
        await asyncio.to_thread(self._link, model.name, described)
        versions = [described if known.version == entry.version else known for known in model.versions]
        self._models[model.name] = _with_versions(msgspec.structs.replace(model, task=task), versions)
        self._publish(model.name)
        await asyncio.to_thread(self._tidy)
        return described

    async def remove(self, name: str, version: int | None = None) -> None:
        """Remove one version, or the model with all of them, and the blobs that nothing else refers to.

        Raises `ModelNotFound`, and `Conflict` for a version that another one was made from.
        """
        async with self._writing:
            model = self.get(name)
            gone = [self._version_of(model, version)] if version is not None else model.versions
            left = [entry for entry in model.versions if entry not in gone]
            if children := [entry.version for entry in left if entry.parent in {entry.version for entry in gone}]:
                raise Conflict(
                    f"{name}@{version} is what version {children[0]} was made from",
                    hint=f"`pilothouse rm {name}@{children[0]}` first, or `pilothouse rm {name}` for all",
                )
            await self._store.run(lambda db: _delete(db, name, [entry.version for entry in gone], whole=not left))
            if left:
                self._models[name] = _with_versions(model, left)
            else:
                del self._models[name]
            self._publish(name)
            await asyncio.to_thread(self._tidy)

    async def ensure_embedded(self) -> None:
        """Register the model that came with the program, unless this very file is registered already."""
        folder = resource(EMBEDDED)
        card = msgspec.json.decode((folder / "card.json").read_bytes())
        digest = await asyncio.to_thread(digest_of, folder / f"{EMBEDDED}.onnx")
        known = self._models.get(EMBEDDED)
        for version in known.versions if known else ():
            if version.digest == digest:
                if not version.card:  # registered before there were cards
                    await self.describe(EMBEDDED, version.version, cards.split(card, "card.json")[0])
                return
        await self.embed(EMBEDDED, folder, card)

    async def embed(self, name: str, folder: Path, card: Mapping[str, Any]) -> Version:
        """Register ``folder/NAME.onnx`` and its held-out samples, leaving the folder as it is."""
        card_of, more = cards.split(card, "card.json")
        copies = self._data.downloads / f"embedded-{name}"
        files = [(f"{name}.onnx", copies / f"{name}.onnx"), ("held_out.npz", copies / "held_out.npz")]
        try:
            for path, copy in files:
                copy.parent.mkdir(parents=True, exist_ok=True)
                await asyncio.to_thread(shutil.copyfile, folder / path, copy)
            return await self.add_version(
                name,
                task=more.get("task", "") or cards.task(card_of),
                files=files,
                format="onnx",
                precision=more.get("precision", "fp32"),
                source=f"embedded:{name}",
                licence=more.get("licence", ""),
                description=more.get("description", ""),
                card=card_of,
                metadata={
                    **{key: value for key, value in more.items() if key not in cards.COLUMNS},
                    "samples": "held_out.npz",
                    "requested": name,
                },
            )
        finally:
            await asyncio.to_thread(shutil.rmtree, copies, ignore_errors=True)

    def samples(self, name: str, version: int, offset: int = 0, limit: int = 10) -> list[Sample]:
        """Held-out examples that came with a version: arrays ``[n, …]`` named like the inputs, and ``labels``.

        Raises `NotFound` if the version brought none, `InvalidInput` for a negative offset or limit.
        """
        if offset < 0 or limit < 0:
            raise InvalidInput("offset and limit must not be negative", field="offset" if offset < 0 else "limit")
        entry = self._version_of(self.get(name), version)
        if "samples" not in entry.metadata:
            raise NotFound(f"{name}@{version} came without held-out samples")
        file = next(file for file in entry.files if file.path == entry.metadata["samples"])
        arrays = dict(_arrays(self.artifacts.path(file.digest)))
        labels = arrays.pop("labels", None)
        count = min(len(array) for array in arrays.values())
        names = cards.labels_of(entry)
        return [
            Sample(
                inputs={key: array[row].astype(float).ravel().tolist() for key, array in arrays.items()},
                shapes={key: list(array.shape[1:]) for key, array in arrays.items()},
                label=None if labels is None else _label(labels[row], names),
            )
            for row in range(offset, min(offset + limit, count))
        ]

    def _version_of(self, model: Model, number: int) -> Version:
        for version in model.versions:
            if version.version == number:
                return version
        numbers = ", ".join(str(version.version) for version in model.versions)
        raise ModelNotFound(f"{model.name} has no version {number}", hint=f"it has {numbers}", field="version")

    def _folder(self, name: str, version: int) -> Path:
        return self._data.models / name / str(version)

    def _adopt(self, path: str, file: Path, sha256: str | None) -> ModelFile:
        digest = self.artifacts.adopt(file, sha256, keep=True)
        return ModelFile(path=path, size_bytes=file.stat().st_size, digest=digest)

    def _link(self, name: str, version: Version) -> None:
        for file in version.files:
            target = self._folder(name, version.version) / file.path
            if not target.exists():
                link_or_copy(self.artifacts.path(file.digest), target)

    def _tidy(self) -> None:
        """Make the folders say what the tables say. Blocks."""
        entries = [(model.name, version) for model in self._models.values() for version in model.versions]
        wanted = {self._folder(name, version.version) for name, version in entries}
        for folder in self._data.models.glob("*/*"):
            if folder not in wanted:
                shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):
                    folder.parent.rmdir()
        for name, version in entries:
            with contextlib.suppress(FileNotFoundError):  # a blob has gone: `path` says so when it is asked for
                self._link(name, version)
        kept = {self.prefixes(version) for _, version in entries}
        for folder in self._data.prefixes.glob("*"):
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        self.artifacts.remove_unreferenced({file.digest for _, version in entries for file in version.files})

    def _drop_incoming(self) -> None:
        """What `incoming` was given when the last daemon ended; jobs keep theirs in folders. Blocks."""
        for file in self._data.downloads.glob("*"):
            if file.is_file():
                file.unlink(missing_ok=True)

    def _publish(self, name: str) -> None:
        self._bus.publish("model", name, self._models.get(name))


def _with_versions(model: Model, versions: list[Version]) -> Model:
    return msgspec.structs.replace(model, versions=versions, size_bytes=sum(entry.size_bytes for entry in versions))


def _version(row: dict[str, Any]) -> Version:
    for key in _JSON:
        row[key] = json.loads(row[key]) if row[key] else None
    row["card"] = row["card"] or {}
    return msgspec.convert({key: value for key, value in row.items() if key != "model"}, Version)


def _has(version: Version, entries: Sequence[ModelFile]) -> bool:
    """Whether ``version`` is made of ``entries``; a description may have brought it more."""
    return version.files[0] == entries[0] and all(entry in version.files for entry in entries)


def _check_files(card: Card, paths: Sequence[str]) -> None:
    for field, path in cards.files(card):
        if path not in paths:
            raise InvalidInput(
                f"{field}: there is no file {path} beside the model",
                hint=f"send it along (`pilothouse describe … --file {path}`)",
                field=field,
            )


def _row(version: Version) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(version)
    for key in _JSON:
        row[key] = json.dumps(row[key]) if row[key] is not None else None
    return row


def _update(db: sqlite_utils.Database, name: str, task: str, version: Version) -> None:
    row = _row(version)
    db.table("models").update(name, {"task": task})
    db.table("versions").update((name, version.version), {key: row[key] for key in ("card", "files", "size_bytes")})


def _insert(db: sqlite_utils.Database, model: Model, version: Version) -> None:
    row = _row(version)
    described = {"name": model.name, "task": model.task, "licence": model.licence, "description": model.description}
    db.table("models").insert(described, ignore=True)
    db.table("versions").insert({"model": model.name, **row})


def _delete(db: sqlite_utils.Database, name: str, versions: list[int], *, whole: bool) -> None:
    for version in versions:
        db.table("versions").delete((name, version))
    if whole:
        db.table("models").delete(name)


@lru_cache(maxsize=4)
def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _label(value: Any, names: list[str]) -> str:
    return names[int(value)] if names and np.issubdtype(type(value), np.integer) else str(value)

"""`pilothouse describe`: what a version of a model is, declared or shown."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.client import escape
from app.commands.session import Session
from app.errors import InvalidInput
from app.registry import cards


def describe(
    session: Session,
    name: str,
    version: int | None,
    *,
    card: Path | None,
    files: Sequence[Path],
    labels: Path | None,
    task: str | None,
) -> None:
    """Raises `ClientError`, `InvalidInput`."""
    if version is None:
        version = session.client.get(f"/manage/v1/models/{escape(name)}")["versions"][-1]["version"]
    base = f"/manage/v1/models/{escape(name)}/versions/{version}"
    declared: dict[str, Any] | None = None
    if card is not None:
        declared, more = _read(card)
        task = task or more.get("task")
    elif labels is not None or task is not None:
        declared = session.client.get(f"{base}/card")
    if declared is not None and labels is not None:
        declared["labels"] = cards.labels(labels.read_bytes(), labels.name)
    if declared is None and not files:
        shown = session.client.get(f"{base}/card")
        session.emit(shown, json.dumps(shown, indent=2, ensure_ascii=False))
        return
    described: dict[str, Any] = {}
    for file in files:  # before the card, which may need them
        described = session.client.put_file(f"{base}/files/{escape(file.name)}", file.read_bytes())
    if declared is not None:
        described = session.client.put(f"{base}/card", declared, task=task)
    session.emit(described, "\n".join([_in_words(name, described), *_running(session, name, version)]))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not JSON: {error}") from None
    _, more = cards.split(document, path.name)
    return {key: value for key, value in document.items() if key in cards.FIELDS}, more


def _in_words(name: str, version: dict[str, Any]) -> str:
    card = version["card"]
    steps = [step["step"] for step in (*card.get("before", ()), *card.get("after", ()))]
    about = [f"takes an item of {card['item']}" if card.get("item") else "takes tensors only"]
    about += [f"steps {', '.join(steps)}"] if steps else []
    about += [f"{len(card['labels'])} labels"] if card.get("labels") else []
    return f"{name}@{version['version']} is described: {'; '.join(about)}"


def _running(session: Session, name: str, version: int) -> list[str]:
    return [
        f"  note  {deployment['route']} runs it as it was before; deploy it again to take this up"
        for deployment in session.client.items("/manage/v1/deployments")
        if (deployment["model"], deployment["version"]) == (name, version)
        and deployment["state"] not in ("stopped", "failed")
    ]

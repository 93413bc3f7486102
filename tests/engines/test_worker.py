"""A tensor worker as the daemon sees it: a process, frames, and the declared steps of its model."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engines import protocol
from engines.card import Card
from engines.protocol import Failed, Hello, Infer, Inferred, Load, Ready, Rejected, TensorHeader
from engines.tensors import pack_strings, unpack
from engines.worker import Channel, _serve_tensors

DIGITS = Path(__file__).parents[2] / "app" / "resources" / "digits"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="an inherited socket is POSIX")


class Worker:
    """One process; `ask` sends a message and gives the answer to it."""

    def __init__(self):
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(60)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "engines", "serve"],
            stdin=subprocess.PIPE,
            env=os.environ | {"PILOTHOUSE_WORKER_FD": str(theirs.fileno()), "PILOTHOUSE_WORKER_SECRET": "s"},
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self._channel = Channel(self._socket)
        message, _ = self.receive()
        assert isinstance(message, Hello)

    def receive(self):
        header = self._read(protocol.FRAME.size)
        header_size, payload_size = protocol.FRAME.unpack(header)
        return protocol.to_daemon.decode(self._read(header_size)), memoryview(self._read(payload_size))

    def _read(self, size):
        data = bytearray()
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            assert part, "the worker hung up"
            data += part
        return bytes(data)

    def ask(self, message, payload=b""):
        self._channel.send(message, [payload])
        return self.receive()

    def ask_items(self, items, outputs=(), number=1):
        payload = pack_strings(np.array(items, dtype=object))
        header = TensorHeader("item", "BYTES", [len(items)], len(payload))
        message, answer = self.ask(Infer(number, [header], list(outputs), items=True), payload)
        return message, unpack(message.outputs, answer) if isinstance(message, Inferred) else None

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)
        self._socket.close()


@pytest.fixture
def worker():
    with contextlib.closing(Worker()) as started:
        yield started


def card(**declared):
    return msgspec.convert(declared, Card)


def echo(folder, **behaviour):
    path = folder / "echo.json"
    path.write_text(json.dumps({"kind": "tensor"} | behaviour))
    return str(path)


ROWS = {
    "item": "row",
    "before": [{"step": "columns", "columns": [{"name": "a"}, {"name": "b", "mean": 1, "scale": 2}]}],
    "after": [{"step": "softmax"}, {"step": "top_k", "k": 1}],
}


def test_a_model_with_steps_takes_items_beside_tensors(worker, tmp_path):
    ready, _ = worker.ask(Load("echo", echo(tmp_path), card=card(**ROWS, labels=["yes", "no"])))
    assert isinstance(ready, Ready)
    assert [spec.name for spec in ready.items.outputs] == ["label", "score"]
    assert [spec.name for spec in ready.signature.outputs] == ["output"]

    answer, values = worker.ask_items([b'{"a": 9, "b": 1}', b"[0, 99]"])
    assert values["label"].tolist() == [[b"yes"], [b"no"]] and answer.id == 1
    _, values = worker.ask_items([b"[0, 99]"], ["score"])
    assert list(values) == ["score"]

    row = np.array([[1, 2]], np.float32)
    answer, payload = worker.ask(Infer(7, [TensorHeader("input", "FP32", [1, 2], 8)]), row.tobytes())
    assert unpack(answer.outputs, payload)["output"].tolist() == [[1, 2]]


def test_the_time_is_told_apart(worker, tmp_path):
    worker.ask(Load("echo", echo(tmp_path, delay_ms=30), card=card(**ROWS)))
    answer, _ = worker.ask_items([b"[1, 2]"] * 200)
    assert 30_000 <= answer.compute_us < 30_000 + answer.input_us + answer.output_us + 200_000
    assert answer.input_us > 0 and answer.output_us > 0


def test_one_bad_item_is_named_and_the_worker_goes_on(worker, tmp_path):
    worker.ask(Load("echo", echo(tmp_path), card=card(**ROWS)))
    answer, _ = worker.ask_items([b"[1, 2]", b"[1]"], number=4)
    assert isinstance(answer, Rejected)
    assert (answer.id, answer.code, answer.field) == (4, "invalid_input", "item[1]")
    assert answer.message == "item[1]: the row has 1 values, the model takes 2"
    assert isinstance(worker.ask_items([b"[1, 2]"])[0], Inferred)


def test_items_for_a_model_without_steps_are_refused(worker, tmp_path):
    ready, _ = worker.ask(Load("echo", echo(tmp_path)))
    assert ready.items is None
    answer, _ = worker.ask_items([b"[1, 2]"])
    assert (answer.code, answer.message) == ("invalid_input", "this model has no declared steps: it takes tensors")


@pytest.mark.parametrize(
    ("declared", "code", "words"),
    [
        ({"item": "text", "before": [{"step": "tokenize"}]}, "bad_setting", "tokenizer.json is not beside the model"),
        ({"states": {"memory": "output"}}, "bad_setting", "card.states.memory: the model has no input memory"),
        (ROWS | {"after": [{"step": "mean_pool"}]}, "bad_setting", "card.after[0]: output is [-1, -1]"),
    ],
)
def test_a_card_that_does_not_fit_fails_the_load(worker, tmp_path, declared, code, words):
    failed, _ = worker.ask(Load("echo", echo(tmp_path), card=card(**declared)))
    assert isinstance(failed, Failed) and failed.code == code and words in failed.message
    assert worker.process.wait(30) == 1


def test_a_missing_library_says_how_to_get_it(tmp_path):
    """In an interpreter that has no Pillow."""
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "import msgspec; from pathlib import Path\n"
        "from engines.card import Card; from engines.engine import EngineError\n"
        "from engines.protocol import Signature, TensorSpec; from engines.steps.plan import Steps\n"
        "known = Signature([TensorSpec('x', 'FP32', [-1, -1, -1, 3], 0)], [TensorSpec('y', 'FP32', [-1], 0)], True)\n"
        "card = msgspec.convert({'item': 'image', 'before': [{'step': 'decode_image'}]}, Card)\n"
        "try: Steps(card, Path('.'), known)\n"
        "except EngineError as error: print(error.code, '|', error.hint)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.startswith("missing_library | pilothouse runtime install")


def test_digits_are_read_from_a_picture(worker):
    declared = json.loads((DIGITS / "card.json").read_text())
    known = {name: declared[name] for name in declared.keys() & set(Card.__struct_fields__)}
    ready, _ = worker.ask(Load("onnxruntime", str(DIGITS / "digits.onnx"), card=card(**known)))
    assert ready.items.batched and ready.items.labels == [str(digit) for digit in range(10)]
    # A one: a dark stroke down the middle of a light picture, as a bitmap without any library.
    from engines.steps.examples import bmp

    blank = bytearray(bmp(8, 8).replace(b"\x80", b"\xff"))
    for row in range(8):
        for column in (3, 4):
            place = 54 + row * 24 + column * 3
            blank[place : place + 3] = b"\0\0\0"
    answer, values = worker.ask_items([bytes(blank)])
    assert isinstance(answer, Inferred) and values["label"][0, 0] == b"1" and values["score"].shape == (1, 10)


class Script:
    """Stands where a `Channel` does: requests that were written before, then the end."""

    def __init__(self, *requests):
        self._requests = requests
        self.sent = []

    def receive(self, block, linger_s=0.0):
        requests, self._requests = self._requests, ()
        if not requests:
            raise EOFError
        return iter(requests)

    def send(self, message, parts=()):
        self.sent.append(message)


class Doubling:
    def infer(self, inputs, outputs):
        return {"y": np.concatenate([inputs["x"]] * 2)}


def test_an_answer_that_no_message_can_hold_is_refused_and_the_worker_goes_on(monkeypatch):
    monkeypatch.setattr(protocol, "MAX_PAYLOAD_BYTES", 20)
    channel = Script(
        (Infer(1, [TensorHeader("x", "FP32", [3], 12)]), memoryview(bytes(12))),
        (Infer(2, [TensorHeader("x", "FP32", [2], 8)]), memoryview(bytes(8))),
    )
    with pytest.raises(EOFError):
        _serve_tensors(channel, Doubling(), None, 0.0)
    refused, answered = channel.sent
    assert (refused.id, refused.code) == (1, "invalid_input")
    assert "24 bytes" in refused.message
    assert answered.id == 2

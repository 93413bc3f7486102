"""Sequences in a real daemon: silero-vad hears recordings in pieces, through `tritonclient`."""

import json

import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.support.daemon import RunningDaemon
from tests.support.voice import voice

pytestmark = pytest.mark.slow
CARD = {"states": {"state": "stateN"}}
#: 32 ms, and before them the last 4 ms of the frame before.
STEP, FRAME = 512, 576


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, silero_vad):
    folder = tmp_path_factory.mktemp("sequences")
    model = folder / "vad"
    model.mkdir()
    (model / "model.onnx").write_bytes(silero_vad.path.read_bytes())
    (model / "card.json").write_text(json.dumps(CARD))
    with RunningDaemon(folder / "data") as running:
        running.pull(f"file:{model}", name="vad")
        deployment = running.deploy("vad", settings={"threads": 1, "sequence_limit": 2})
        assert deployment["state"] == "ready", deployment["error"]
        yield running


@pytest.fixture
def client(daemon):
    with triton.InferenceServerClient(daemon.url.removeprefix("http://")) as client:
        yield client


@pytest.fixture
def hear(client):
    def hear(frame, **sequence):
        sound = triton.InferInput("input", [1, FRAME], "FP32")
        sound.set_data_from_numpy(frame[None])
        rate = triton.InferInput("sr", [], "INT64")
        rate.set_data_from_numpy(np.array(16000))
        answer = client.infer("vad", [sound, rate], **sequence)
        assert [output["name"] for output in answer.get_response()["outputs"]] == ["output"]
        return float(answer.as_numpy("output")[0, 0])

    return hear


@pytest.fixture(scope="module")
def expected(silero_vad):
    """What ONNX Runtime itself hears, with the state passed on by hand."""
    session = ort.InferenceSession(str(silero_vad.path), providers=["CPUExecutionProvider"])

    def expected(frames):
        state, heard = np.zeros((2, 1, 128), np.float32), []
        for frame in frames:
            output, state = session.run(
                ["output", "stateN"], {"input": frame[None], "state": state, "sr": np.array(16000)}
            )
            heard.append(float(output[0, 0]))
        return heard

    return expected


def frames(sound):
    padded = np.pad(sound, (FRAME - STEP, 0))
    return np.stack([padded[start : start + FRAME] for start in range(0, len(sound) - STEP + 1, STEP)])


def test_two_recordings_are_heard_at_once_each_with_its_own_state(hear, expected):
    spoken = frames(voice(4))
    noise = np.random.default_rng(5).normal(0, 0.05, spoken.shape).astype(np.float32)
    heard = {"one": [], "two": []}
    last = len(spoken) - 1
    for number, pair in enumerate(zip(spoken, noise, strict=True)):
        for name, frame in zip(heard, pair, strict=True):
            heard[name].append(hear(frame, sequence_id=name, sequence_start=number == 0, sequence_end=number == last))
    np.testing.assert_allclose(heard["one"], expected(spoken), atol=1e-3)
    np.testing.assert_allclose(heard["two"], expected(noise), atol=1e-3)
    assert max(heard["one"]) > 0.9
    assert max(heard["two"]) < 0.5


def test_an_id_that_was_not_started_is_a_400_that_names_it(hear):
    with pytest.raises(InferenceServerException, match="sequence 99 is not active") as raised:
        hear(np.zeros(FRAME, np.float32), sequence_id=99)
    assert raised.value.status() == "400"


def test_too_many_sequences_are_refused_and_counted(daemon, hear):
    silence = np.zeros(FRAME, np.float32)
    for number in (1, 2):
        hear(silence, sequence_id=number, sequence_start=True)
    with pytest.raises(InferenceServerException, match="2 sequences are active already"):
        hear(silence, sequence_id=3, sequence_start=True)
    for number in (1, 2):
        hear(silence, sequence_id=number, sequence_end=True)

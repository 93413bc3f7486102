"""Whole files in, named answers out: a recording and photographs, through a running daemon, by Triton's client."""

import io
import json

import numpy as np
import onnx
import pytest
import tritonclient.http as triton
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from scipy.io import wavfile
from tritonclient.utils import InferenceServerException

from tests.support.daemon import RunningDaemon
from tests.support.voice import voice

SPEECH = {
    "item": "audio",
    "states": {"state": "stateN"},
    "before": [
        {"step": "decode_audio", "rate": 16000},
        {"step": "frame", "size": 576, "hop": 512, "pad_start": 64},
        {"step": "constant", "output": "sr", "value": 16000, "datatype": "INT64"},
    ],
    "after": [{"step": "select", "input": "output", "index": 0, "output": "speech"}],
}
BRIGHT = {
    "item": "image",
    "labels": ["lamp"],
    "before": [
        {"step": "decode_image", "mode": "L"},
        {"step": "resize", "size": 16, "mode": "letterbox", "filter": "box"},
        {"step": "normalize", "scale": 1 / 255},
        {"step": "layout"},
    ],
    "after": [{"step": "nms", "input": "boxes", "scores": "scores", "iou": 0.1, "minimum": 0.9, "max_boxes": 4}],
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with RunningDaemon(tmp_path_factory.mktemp("steps") / "data") as running:
        yield running


@pytest.fixture
def serve(daemon, tmp_path):
    """Pull a model with its card, and deploy it."""

    def serve(name, model, card):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.onnx").write_bytes(model)
        (folder / "card.json").write_text(json.dumps(card))
        daemon.pull(f"file:{folder}", name=name)
        deployment = daemon.deploy(name, settings={"threads": 1})
        assert deployment["state"] == "ready", deployment["error"]

    return serve


@pytest.fixture
def ask(daemon):
    def ask(route, *items):
        given = triton.InferInput("item", [len(items)], "BYTES")
        given.set_data_from_numpy(np.array(items, dtype=object))
        with triton.InferenceServerClient(daemon.url.removeprefix("http://")) as client:
            return client.infer(route, [given])

    return ask


def recording(sound, rate, channels=2):
    """A WAV file at another rate, of 16 bits, the sound on every channel."""
    places = np.arange(int(len(sound) * rate / 16000)) * 16000 / rate
    samples = np.interp(places, np.arange(len(sound)), sound)
    buffer = io.BytesIO()
    wavfile.write(buffer, rate, (np.repeat(samples[:, None], channels, axis=1) * 32767).astype(np.int16))
    return buffer.getvalue()


def test_a_recording_of_any_rate_is_heard(serve, ask, silero_vad):
    serve("speech", silero_vad.path.read_bytes(), SPEECH)
    sound = voice(2)
    speech = ask("speech", recording(sound, 44100), recording(np.zeros_like(sound), 44100)).as_numpy("speech")
    assert speech.shape == (2, -(-len(sound) // 512)) and speech.dtype == np.float32
    assert speech[0].max() > 0.9 and speech[1].max() < 0.1
    plain = ask("speech", recording(sound, 16000, channels=1)).as_numpy("speech")
    np.testing.assert_allclose(plain[0], speech[0], atol=0.2)
    assert ask("speech", recording(voice(1), 8000)).as_numpy("speech").shape == (1, -(-len(voice(1)) // 512))
    with pytest.raises(InferenceServerException, match=r"item\[1\]: this is not a WAV file"):
        ask("speech", recording(sound, 16000), b"MThd")


@pytest.fixture
def bright_spots():
    """Every pixel of [n, 1, 16, 16] is a box three wide around itself, as sure as the pixel is bright."""
    y, x = np.mgrid[:16, :16].reshape(2, -1).astype(np.float32) + 0.5
    places = np.stack([x, y, np.full(256, 3, np.float32), np.full(256, 3, np.float32)], axis=1)
    nodes = [
        helper.make_node("Reshape", ["image", "flat"], ["scores"]),
        helper.make_node("Mul", ["scores", "zero"], ["none"]),
        helper.make_node("Add", ["none", "places"], ["boxes"]),
    ]
    weights = [
        numpy_helper.from_array(np.array([0, 256, 1], np.int64), "flat"),
        numpy_helper.from_array(np.zeros(1, np.float32), "zero"),
        numpy_helper.from_array(places[None], "places"),
    ]
    graph = helper.make_graph(
        nodes,
        "spots",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 16, 16])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", 256, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 256, 1]),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_boxes_come_back_in_pixels_of_the_photograph(serve, ask, bright_spots):
    serve("spots", bright_spots, BRIGHT)
    night = np.zeros((320, 640), np.uint8)  # wide: shrunk to 16 by 8, four rows below the upper edge
    night[80:120, 400:440] = 255
    night[200:240, 40:80] = 255
    dark = np.zeros((64, 64), np.uint8)
    answer = ask("spots", *(png(pixels) for pixels in (night, dark)))
    assert answer.as_numpy("count").tolist() == [2, 0]
    assert answer.as_numpy("label").tolist() == [[b"lamp", b"lamp", b"", b""], [b""] * 4]
    # Three of the model's pixels are 120 of the photograph's, centred on the lamp and not beyond the edge.
    boxes = answer.as_numpy("boxes")
    assert boxes[0, :2].tolist() == [[360, 40, 480, 160], [0, 160, 120, 280]] and not boxes[1].any()


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()

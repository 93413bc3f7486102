"""A detector that nobody here made, and a photograph: from the file to boxes in its pixels."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image

pytestmark = pytest.mark.slow
#: The file itself has the names.
FACE = "FACE_FEMALE"
#: What `NudeDetector().detect("astronaut.png")` of nudenet 3.4.2 says: left, top, right, bottom.
OWN = np.array([173, 82, 275, 180])
CARD = {
    "item": "image",
    "before": [
        {"step": "decode_image"},
        {"step": "resize", "size": 320, "mode": "letterbox"},
        {"step": "normalize", "scale": 1 / 255},
        {"step": "layout"},
    ],
    "after": [
        {"step": "transpose", "output": "places"},
        {"step": "select", "end": 4, "output": "found"},
        {"step": "select", "input": "places", "start": 4, "output": "scores"},
        {"step": "nms", "input": "found", "scores": "scores", "max_boxes": 4},
    ],
}


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_a_face_is_found_where_it_is_in_pictures_of_any_shape(daemon, nudenet, astronaut, tmp_path):
    (tmp_path / "faces.onnx").write_bytes(nudenet.path.read_bytes())
    (tmp_path / "card.json").write_text(json.dumps(CARD))
    daemon.pull(f"file:{tmp_path}", name="faces")
    assert daemon.deploy("faces")["state"] == "ready"
    assert daemon.get("/manage/v1/models/faces")["task"] == "object-detection"

    photograph = Image.open(io.BytesIO(astronaut)).convert("RGB")
    wide = Image.new("RGB", (900, 600))
    wide.paste(photograph, (300, 50))
    pictures = {
        "as it is": (photograph, OWN),
        "half as large": (photograph.resize((256, 256)), OWN / 2),
        "in a wide one": (wide, OWN + np.array([300, 50] * 2)),
        "without her": (photograph.crop((300, 300, 512, 512)), None),
    }
    with triton.InferenceServerClient(daemon.url.removeprefix("http://")) as client:
        item = triton.InferInput("item", [len(pictures)], "BYTES")
        item.set_data_from_numpy(np.array([png(image) for image, _ in pictures.values()], dtype=object))
        answer = client.infer("faces", [item])
    labels, scores, boxes, counts = (answer.as_numpy(name) for name in ("label", "score", "boxes", "count"))
    for index, (name, (_, expected)) in enumerate(pictures.items()):
        faces = [number for number in range(counts[index]) if labels[index, number].decode() == FACE]
        if expected is None:
            assert not faces, name
            continue
        [face] = faces
        np.testing.assert_allclose(boxes[index, face], expected, atol=8, err_msg=name)
        assert scores[index, face] > 0.5, name
    assert labels[0, 0].decode() == FACE and np.abs(boxes[0, 0] - OWN).max() < 2

    (tmp_path / "face.png").write_bytes(astronaut)
    environment = os.environ | {"PILOTHOUSE_DATA_DIR": str(daemon.data_dir)}
    command = [sys.executable, "-m", "app", "run", "faces", str(tmp_path / "face.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    label, score, *corners = done.stdout.split()
    assert (label, corners) == (FACE, ["173,", "83", "to", "274,", "180"]) and float(score.rstrip("%")) > 60

"""Boxes, against the NonMaxSuppression operator as ONNX Runtime computes it."""

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from engines.card import Card, Nms, Resize
from engines.protocol import Signature, TensorSpec
from engines.steps import detection, image
from engines.steps.geometry import Geometry
from engines.steps.plan import Steps

RANDOM = np.random.default_rng(13)


def random_boxes(count):
    start = RANDOM.uniform(0, 80, (count, 2))
    return np.concatenate([start, start + RANDOM.uniform(1, 40, (count, 2))], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def operator():
    """boxes [1, n, 4] as corners, scores [1, classes, n] -> kept [k, 3]: batch, class, box."""
    node = helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "iou", "minimum"], ["kept"])
    inputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, None, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, None, None]),
        helper.make_tensor_value_info("most", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("iou", TensorProto.FLOAT, [1]),
        helper.make_tensor_value_info("minimum", TensorProto.FLOAT, [1]),
    ]
    graph = helper.make_graph(
        [node], "nms", inputs, [helper.make_tensor_value_info("kept", TensorProto.INT64, [None, 3])]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(boxes, scores, iou, minimum):
        feeds = {
            "boxes": boxes[None],
            "scores": scores.T[None],
            "most": np.array([1000], np.int64),
            "iou": np.array([iou], np.float32),
            "minimum": np.array([minimum], np.float32),
        }
        return session.run(None, feeds)[0][:, 1:]

    return run


@pytest.mark.parametrize("iou", [0.1, 0.45, 0.8])
def test_each_class_keeps_what_the_operator_keeps(operator, iou):
    boxes, scores = random_boxes(200), RANDOM.uniform(0, 1, (200, 3)).astype(np.float32)
    step = Nms(form="xyxy", iou=iou, minimum=0.5, max_boxes=600)
    found, best, kinds = detection.detect(step, boxes, scores, None, None)
    expected = {
        (int(kind), *boxes[box].tolist(), float(scores[box, kind])) for kind, box in operator(boxes, scores, iou, 0.5)
    }
    assert {(int(k), *b.tolist(), float(s)) for k, b, s in zip(kinds, found, best, strict=True)} == expected
    assert (np.diff(best) <= 0).all() and 10 < len(best) < 600


def test_without_classes_all_boxes_compete(operator):
    boxes, scores = random_boxes(100), RANDOM.uniform(0, 1, 100).astype(np.float32)
    kinds = RANDOM.integers(0, 5, 100)
    step = Nms(form="xyxy", iou=0.3, minimum=0.2, per_class=False, classes="c")
    found, best, kept_kinds = detection.detect(step, boxes, scores, kinds, None)
    kept = [int(box) for _, box in operator(boxes, scores[:, None], 0.3, 0.2)]
    np.testing.assert_array_equal(found, boxes[kept])
    np.testing.assert_array_equal(kept_kinds, kinds[kept])
    np.testing.assert_array_equal(best, scores[kept])


def test_boxes_come_in_three_forms():
    corners = np.array([[1, 2, 5, 10]], np.float32)
    assert detection.corners(np.array([[3, 6, 4, 8]], np.float32), "cxcywh").tolist() == corners.tolist()
    assert detection.corners(np.array([[1, 2, 4, 8]], np.float32), "xywh").tolist() == corners.tolist()
    assert detection.corners(corners, "xyxy") is corners


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "cover"])
def test_boxes_are_given_in_pixels_of_the_image_that_came(mode):
    pixels = np.zeros((50, 100, 3), np.uint8)
    pixels[10:30, 40:60] = 255
    geometry = Geometry((100, 50), (100, 50))
    small, geometry = image.resize(Resize(size=80, mode=mode, filter="nearest"), pixels, geometry)
    bright = np.argwhere(small[..., 0] > 128)
    (top, left), (bottom, right) = bright.min(0), bright.max(0) + 1
    box = np.array([[left, top, right, bottom]], np.float32)
    found, _, _ = detection.detect(Nms(form="xyxy"), box, np.array([1.0]), None, geometry)
    np.testing.assert_allclose(found, [[40, 10, 60, 30]], atol=1)
    shares, _, _ = detection.detect(Nms(form="xyxy", relative=True), box / 80, np.array([1.0]), None, geometry)
    np.testing.assert_allclose(shares, found, atol=1e-3)
    as_seen, _, _ = detection.detect(Nms(form="xyxy", restore=False), box, np.array([1.0]), None, geometry)
    np.testing.assert_array_equal(as_seen, box)


def test_a_detector_from_file_to_named_boxes(tmp_path):
    """A model of YOLO's form: [batch, 4 + classes, places], two images of different sizes in one batch."""
    known = Signature(
        inputs=[TensorSpec("images", "FP32", [-1, 3, 64, 64], 0)],
        outputs=[TensorSpec("output0", "FP32", [-1, 6, -1], 0)],
        batched=True,
    )
    card = msgspec.convert(
        {
            "item": "image",
            "labels": ["cat", "dog"],
            "before": [
                {"step": "decode_image"},
                {"step": "resize", "size": 64, "mode": "letterbox", "fill": 114},
                {"step": "normalize", "scale": 1 / 255},
                {"step": "layout"},
            ],
            "after": [
                {"step": "transpose"},
                {"step": "select", "end": 4, "output": "found"},
                {"step": "select", "input": "output0", "start": 4, "output": "scores"},
                {"step": "nms", "input": "found", "max_boxes": 3},
            ],
        },
        Card,
    )
    steps = Steps(card, tmp_path, known)

    def model(inputs, outputs):
        assert inputs["images"].shape == (2, 3, 64, 64) and inputs["images"].max() <= 1
        places = np.zeros((2, 6, 4), np.float32)
        places[0, :, 0] = [32, 32, 16, 8, 0.9, 0.1]
        places[0, :, 1] = [33, 32, 16, 8, 0.8, 0.1]  # overlaps the first
        places[0, :, 2] = [33, 32, 16, 8, 0.1, 0.7]  # another class
        places[1, :, 3] = [32, 32, 64, 64, 0.2, 0.3]
        return {"output0": places}

    from engines.steps.examples import bmp

    answer = steps.run([bmp(128, 64), bmp(32, 32)], model)
    assert answer["count"].tolist() == [2, 1]
    assert answer["label"].tolist() == [[b"cat", b"dog", b""], [b"dog", b"", b""]]
    # 128 by 64 was halved and put 16 rows down: x * 2, (y - 16) * 2.
    np.testing.assert_allclose(answer["boxes"][0, 0], [48, 24, 80, 40])
    np.testing.assert_allclose(answer["boxes"][1, 0], [0, 0, 32, 32])
    assert [(spec.name, spec.datatype, spec.shape) for spec in steps.items.outputs] == [
        ("boxes", "FP32", [-1, 3, 4]),
        ("label", "BYTES", [-1, 3]),
        ("score", "FP32", [-1, 3]),
        ("count", "INT64", [-1]),
    ]

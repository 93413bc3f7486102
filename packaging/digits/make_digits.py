"""Makes the embedded default model: handwritten digits, 8×8 pixels, from the data bundled with scikit-learn.

    python packaging/digits/make_digits.py [FOLDER]

writes ``digits.onnx``, ``held_out.npz`` and ``card.json`` into FOLDER (``app/resources/digits``). The held-out
fifth is drawn before anything is trained and is used once, for the accuracy on the card. On one machine, running
it again gives the same bytes; another processor may sum in another order and train slightly different weights.

Needs the extra ``convert`` and onnxruntime.
"""

import hashlib
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

SEED = 8
HELD_OUT_SHARE = 0.2
LARGEST_PIXEL = 16
HIDDEN = (256, 256)
LABELS = [str(digit) for digit in range(10)]
LICENCE = "Apache-2.0; trained on UCI Optical Recognition of Handwritten Digits (CC BY 4.0), from scikit-learn (BSD-3)"
DESCRIPTION = (
    "Handwritten digits 0 to 9, 8×8 pixels with values 0 to 16; a fully connected network 64-256-256-10 "
    "trained on four fifths of scikit-learn's bundled digits"
)
#: From a picture of dark ink on light paper to what the network was trained on: ink 16, paper 0.
BEFORE = [
    {"step": "decode_image", "mode": "L"},
    {"step": "resize", "size": 8, "filter": "box"},
    {"step": "normalize", "scale": -LARGEST_PIXEL / 255, "mean": -LARGEST_PIXEL},
    {"step": "layout", "to": "CHW"},
]
AFTER = [{"step": "top_k", "input": "probabilities", "k": 0}]
DESTINATION = Path(__file__).resolve().parents[2] / "app" / "resources" / "digits"


def split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images, held-out images (float32 [n,1,8,8], 0 to 16), and their labels (int64 [n])."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8).astype(np.float32)
    return train_test_split(
        images, labels.astype(np.int64), test_size=HELD_OUT_SHARE, stratify=labels, random_state=SEED
    )


def shifted(images: np.ndarray) -> np.ndarray:
    """The images and their four shifts by one pixel: where a digit lies says nothing about which it is."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    places = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    return np.concatenate([padded[:, :, row : row + 8, column : column + 8] for row, column in places])


def train(images: np.ndarray, labels: np.ndarray, seed: int = SEED) -> MLPClassifier:
    features = shifted(images).reshape(-1, 64) / LARGEST_PIXEL
    network = MLPClassifier(HIDDEN, alpha=1e-2, batch_size=128, max_iter=30, tol=0.0, random_state=seed)
    network.n_iter_no_change = network.max_iter  # a fixed length, so that no early stop depends on rounding
    # One thread: the order in which BLAS sums is then fixed.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the length is meant
        return network.fit(features.astype(np.float64), np.tile(labels, 5))


def to_onnx(network: MLPClassifier) -> onnx.ModelProto:
    """``image`` FP32 [batch,1,8,8] → ``probabilities`` FP32 [batch,10], ``label`` INT64 [batch]."""
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], axis=1),
        helper.make_node("Div", ["flat", "largest_pixel"], ["layer_0"]),
    ]
    weights = [numpy_helper.from_array(np.array(LARGEST_PIXEL, np.float32), "largest_pixel")]
    last = len(network.coefs_)
    for number, (matrix, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True), start=1):
        weights.append(numpy_helper.from_array(matrix.astype(np.float32), f"weight_{number}"))
        weights.append(numpy_helper.from_array(bias.astype(np.float32), f"bias_{number}"))
        result = "logits" if number == last else f"sum_{number}"
        nodes.append(helper.make_node("Gemm", [f"layer_{number - 1}", f"weight_{number}", f"bias_{number}"], [result]))
        if number < last:
            nodes.append(helper.make_node("Relu", [result], [f"layer_{number}"]))
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1))
    nodes.append(helper.make_node("ArgMax", ["logits"], ["label"], axis=-1, keepdims=0))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        ],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="make_digits"
    )
    helper.set_model_props(
        model,
        {"labels": json.dumps(LABELS), "description": DESCRIPTION, "licence": LICENCE, "input_range": "[0, 16]"},
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def correct(model: bytes, images: np.ndarray, labels: np.ndarray) -> int:
    """How many of ``images`` onnxruntime labels rightly."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return int(np.sum(session.run(["label"], {"image": images})[0] == labels))


def write(folder: Path) -> dict[str, object]:
    """Train, check and write the three files; returns the card."""
    train_images, held_out_images, train_labels, held_out_labels = split()
    model = to_onnx(train(train_images, train_labels)).SerializeToString(deterministic=True)
    right = correct(model, held_out_images, held_out_labels)
    card = {
        "name": "digits",
        "title": "Handwritten digits",
        "task": "image-classification",
        "description": DESCRIPTION,
        "licence": LICENCE,
        "format": "onnx",
        "precision": "fp32",
        "labels": LABELS,
        "units": {"image": f"0 (paper) to {LARGEST_PIXEL} (ink)"},
        "item": "image",
        "before": BEFORE,
        "after": AFTER,
        "input_range": [0, LARGEST_PIXEL],
        "accuracy": right / len(held_out_labels),
        "correct": right,
        "held_out": len(held_out_labels),
        "trained_on": len(train_labels),
        "made_by": "packaging/digits/make_digits.py: MLPClassifier 64-256-256-10 on the images and their one-pixel "
        "shifts; accuracy counted by onnxruntime on a stratified fifth that training never saw",
        "data": "scikit-learn load_digits, the test part of UCI Optical Recognition of Handwritten Digits",
        "size_bytes": len(model),
        "digest": f"sha256:{hashlib.sha256(model).hexdigest()}",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "digits.onnx").write_bytes(model)
    np.savez_compressed(folder / "held_out.npz", image=held_out_images, labels=held_out_labels)
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    (folder / "card.json").write_text(text, encoding="utf-8", newline="\n")
    return card


if __name__ == "__main__":
    card = write(Path(sys.argv[1]) if len(sys.argv) > 1 else DESTINATION)
    print(f"{card['correct']} of {card['held_out']} held-out images right: {card['accuracy']:.4f}")

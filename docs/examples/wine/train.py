"""Trains a forest on scikit-learn's wines and writes it as ONNX: model.onnx, and held_out.npz to ask it about."""

from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

wine = load_wine()
rows = wine.data.astype(np.float32)
known, held_out, classes, truth = train_test_split(rows, wine.target, test_size=0.2, random_state=0)
forest = RandomForestClassifier(100, random_state=0).fit(known, classes)
model = to_onnx(forest, known[:1], options={"zipmap": False}, target_opset=17)
Path("model.onnx").write_bytes(model.SerializeToString())
np.savez("held_out.npz", rows=held_out, truth=truth, probabilities=forest.predict_proba(held_out))
print(f"{forest.score(held_out, truth):.0%} of {len(truth)} held-out wines")

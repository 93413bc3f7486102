"""python identify.py FILE…: what kind of file each one is, told from its content."""

import sys
from pathlib import Path

import numpy as np
import tritonclient.http as triton

paths = [Path(name) for name in sys.argv[1:]]
item = triton.InferInput("item", [len(paths)], "BYTES")
item.set_data_from_numpy(np.array([path.read_bytes() for path in paths], dtype=object))
with triton.InferenceServerClient("127.0.0.1:8484") as client:
    answer = client.infer("magika", [item])
for path, labels, scores in zip(paths, answer.as_numpy("label"), answer.as_numpy("score"), strict=True):
    print(f"{path.name:12} {labels[0].decode():10} {scores[0]:.2f}")

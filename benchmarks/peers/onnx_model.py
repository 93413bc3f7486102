"""What the peers share: the ONNX file that `MODEL_FILE` names, in onnxruntime, and the Open Inference Protocol."""

import os
from typing import Any

import numpy as np
import onnxruntime


class Model:
    """Rows in, outputs of as many rows out. One thread, as Pilothouse is told too."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("MODEL_THREADS", "1"))
        self.session = onnxruntime.InferenceSession(
            os.environ["MODEL_FILE"], options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0].name
        self.shape = self.session.get_inputs()[0].shape[1:]
        self.outputs = [output.name for output in self.session.get_outputs()]

    def run(self, rows: np.ndarray) -> list[np.ndarray]:
        return self.session.run(self.outputs, {self.input: rows})


def read(request: dict[str, Any]) -> np.ndarray:
    tensor = request["inputs"][0]
    return np.array(tensor["data"], np.float32).reshape(tensor["shape"])


def write(names: list[str], outputs: list[np.ndarray]) -> dict[str, Any]:
    return {
        "model_name": "model",
        "outputs": [
            {
                "name": name,
                "datatype": "INT64" if output.dtype == np.int64 else "FP32",
                "shape": list(output.shape),
                "data": output.ravel().tolist(),
            }
            for name, output in zip(names, outputs, strict=True)
        ],
    }

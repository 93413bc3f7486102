"""A model of Triton's Python backend (`config.pbtxt` is written by `tensor_peers.py`)."""

import numpy as np
import triton_python_backend_utils as triton
from onnx_model import Model


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.model = Model()

    def execute(self, requests: list) -> list:  # type: ignore[type-arg]
        inputs = [triton.get_input_tensor_by_name(request, self.model.input).as_numpy() for request in requests]
        outputs = self.model.run(np.concatenate(inputs))
        answers, start = [], 0
        for rows in map(len, inputs):
            tensors = [
                triton.Tensor(name, values[start : start + rows].reshape(rows, *(values.shape[1:] or (1,))))
                for name, values in zip(self.model.outputs, outputs, strict=True)
            ]
            answers.append(triton.InferenceResponse(output_tensors=tensors))
            start += rows
        return answers

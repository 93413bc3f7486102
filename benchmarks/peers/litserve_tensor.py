"""LitServe with its batching, one worker."""

import sys
from typing import Any

import litserve
import numpy as np
from onnx_model import Model, read, write


class Served(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = Model()

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        return read(request)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(inputs)

    def predict(self, rows: np.ndarray) -> list[np.ndarray]:
        return self.model.run(rows)

    def unbatch(self, outputs: list[np.ndarray]) -> list[list[np.ndarray]]:
        return [[output[row : row + 1] for output in outputs] for row in range(len(outputs[0]))]

    def encode_response(self, outputs: list[np.ndarray]) -> dict[str, Any]:
        return write(self.model.outputs, outputs)


if __name__ == "__main__":
    api = Served(max_batch_size=32, batch_timeout=0.001, api_path="/v2/models/model/infer")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="error"
    )

"""BentoML with its adaptive batching, one worker; it names the input instead of listing tensors."""

import bentoml
import numpy as np
from onnx_model import Model


@bentoml.service(workers=1, traffic={"timeout": 60})
class Served:
    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=60_000, route="/v2/models/model/infer")
    def infer(self, rows: np.ndarray) -> np.ndarray:
        shaped = np.asarray(rows, np.float32).reshape(-1, *self.model.shape)
        return self.model.run(shaped)[0]

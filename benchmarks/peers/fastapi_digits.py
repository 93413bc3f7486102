"""What a developer writes first: FastAPI and pydantic around the same ONNX file, the same request and answer."""

import sys

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
app = FastAPI()


class Tensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class Request(BaseModel):
    inputs: list[Tensor]


class Answer(BaseModel):
    model_name: str
    outputs: list[Tensor]


@app.post("/v2/models/digits/infer")
async def infer(request: Request) -> Answer:
    tensor = request.inputs[0]
    image = np.array(tensor.data, np.float32).reshape(tensor.shape)
    probabilities, label = session.run(None, {"image": image})
    return Answer(
        model_name="digits",
        outputs=[
            Tensor(
                name="probabilities",
                datatype="FP32",
                shape=list(probabilities.shape),
                data=probabilities.ravel().tolist(),
            ),
            Tensor(name="label", datatype="INT64", shape=list(label.shape), data=label.tolist()),
        ],
    )


@app.get("/v2/health/ready")
async def ready() -> dict[str, bool]:
    return {"ready": True}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_config=None, access_log=False, loop="uvloop", http="httptools")

"""What a developer writes first: FastAPI and pydantic around the same ONNX file, the same request and answer."""

import sys

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from onnx_model import Model
from pydantic import BaseModel

model = Model()
app = FastAPI()


class Tensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class Tensors(BaseModel):
    inputs: list[Tensor]


class Answer(BaseModel):
    model_name: str
    outputs: list[Tensor]


@app.post("/v2/models/model/infer")
async def infer(request: Tensors) -> Answer:
    tensor = request.inputs[0]
    outputs = model.run(np.array(tensor.data, np.float32).reshape(tensor.shape))
    return Answer(
        model_name="model",
        outputs=[
            Tensor(name=name, datatype="FP32", shape=list(values.shape), data=values.ravel().tolist())
            for name, values in zip(model.outputs, outputs, strict=True)
        ],
    )


@app.post("/raw")
async def raw(request: Request) -> Response:
    rows = np.frombuffer(await request.body(), np.float32).reshape(-1, *model.shape)
    return Response(b"".join(values.tobytes() for values in model.run(rows)), media_type="application/octet-stream")


@app.get("/v2/health/ready")
async def ready() -> dict[str, bool]:
    return {"ready": True}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_config=None, access_log=False, loop="uvloop", http="httptools")

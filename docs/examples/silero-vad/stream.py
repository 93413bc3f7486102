"""python stream.py FILE.wav (16 kHz, 16 bits, mono): the same as it arrives, 32 ms at a time, as from a microphone.

The server keeps the model's state between the requests of one sequence; nothing but sound is sent.
"""

import sys
import wave
from collections.abc import Iterator

import numpy as np
import tritonclient.http as triton
from phrases import phrases

FRAME, CONTEXT = 512, 64


def sound(path: str) -> Iterator[np.ndarray]:
    """Frame by frame, each with the last samples of the one before."""
    with wave.open(path) as file:
        before = np.zeros(CONTEXT, np.float32)
        while data := file.readframes(FRAME):
            samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
            frame = np.concatenate([before, np.pad(samples, (0, FRAME - len(samples)))])
            before = frame[-CONTEXT:]
            yield frame


def heard(client: triton.InferenceServerClient, path: str) -> Iterator[float]:
    rate = triton.InferInput("sr", [], "INT64")
    rate.set_data_from_numpy(np.array(16000, np.int64))
    for number, frame in enumerate(sound(path)):
        piece = triton.InferInput("input", [1, CONTEXT + FRAME], "FP32")
        piece.set_data_from_numpy(frame[None])
        answer = client.infer("silero-vad", [piece, rate], sequence_id=7, sequence_start=number == 0)
        yield float(answer.as_numpy("output")[0, 0])


with triton.InferenceServerClient("127.0.0.1:8484") as client:
    for begin_s, end_s in phrases(heard(client, sys.argv[1])):
        print(f"{begin_s:.2f} s to {end_s:.2f} s")

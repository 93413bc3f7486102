"""python listen.py FILE.wav: where somebody speaks in a recording. The whole file is one item."""

import sys
from pathlib import Path

import numpy as np
import tritonclient.http as triton
from phrases import phrases

item = triton.InferInput("item", [1], "BYTES")
item.set_data_from_numpy(np.array([Path(sys.argv[1]).read_bytes()], dtype=object))
with triton.InferenceServerClient("127.0.0.1:8484") as client:
    [speech] = client.infer("silero-vad", [item]).as_numpy("speech")
print(f"{len(speech)} frames, {np.mean(speech >= 0.5):.0%} of them speech")
for begin_s, end_s in phrases(speech):
    print(f"{begin_s:.2f} s to {end_s:.2f} s")

"""The held-out wines as raw tensors, in one request; the answers against those of scikit-learn."""

import numpy as np
import tritonclient.http as triton

held_out = np.load("held_out.npz")
table = triton.InferInput("X", list(held_out["rows"].shape), "FP32")
table.set_data_from_numpy(held_out["rows"])
with triton.InferenceServerClient("127.0.0.1:8484") as client:
    answer = client.infer("wine", [table])
right = np.mean(answer.as_numpy("label") == held_out["truth"])
difference = np.abs(answer.as_numpy("probabilities") - held_out["probabilities"]).max()
print(f"{right:.0%} right; as scikit-learn to 1e-5: {difference < 1e-5}")

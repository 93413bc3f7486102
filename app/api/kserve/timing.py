"""Where the time of an answer went, as an entry of Server-Timing."""

import re

from app.dataplane.inference import Inference

#: What may not be in the name of an entry.
_NO_TOKEN = re.compile(r"[^A-Za-z0-9_.-]")


def server_timing(answer: Inference) -> bytes:
    """Milliseconds in the queue and in the worker; of a pipeline, of each step too."""
    timing = b"queue;dur=%.3f, input;dur=%.3f, compute;dur=%.3f, output;dur=%.3f" % (
        answer.queue_s * 1e3, answer.input_s * 1e3, answer.compute_s * 1e3, answer.output_s * 1e3
    )  # fmt: skip
    for step in answer.steps:
        timing += b", %s;dur=%.3f" % (_NO_TOKEN.sub("_", step.name).encode(), step.total_s * 1e3)
    return timing

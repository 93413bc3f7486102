"""The doctor's words; what it finds is proved with the real daemon's parts in tests/e2e."""

import pytest

from app.commands.doctor import report, warnings

MACHINE = {
    "hostname": "bridge", "os": "Debian 12", "cpu": {"name": "EPYC", "physical_cores": 2, "features": ["avx2"]},
    "memory_total_bytes": 8_000_000_000, "memory_used_bytes": 3_000_000_000, "disk_free_bytes": 40_000_000_000,
    "gpus": [], "gpu_note": "there is no NVIDIA driver",
}  # fmt: skip
GPU = {"index": 0, "name": "RTX 4090", "memory_total_bytes": 24_000_000_000}
ENGINES = [
    {"name": "onnxruntime", "version": "1.32.0", "usable": True, "reason": "", "remedy": "", "devices": ["cpu"],
     "runtime": "environment"},
    {"name": "llamacpp", "version": None, "usable": False, "reason": "llama.cpp is not installed",
     "remedy": "pilothouse runtime install llamacpp-cpu", "devices": [], "runtime": None},
]  # fmt: skip


@pytest.mark.parametrize(
    ("installed", "count"),
    [(set(), 0), ({"onnxruntime"}, 0), ({"onnxruntime-gpu", "numpy"}, 0), ({"onnxruntime", "onnxruntime-gpu"}, 1)],
)
def test_the_two_onnxruntimes_must_not_meet(installed: set[str], count: int):
    assert len(warnings(installed)) == count


def test_the_report_names_what_is_missing_and_its_remedy():
    text = report({"machine": MACHINE, "engines": ENGINES, "warnings": ["beware"]})
    assert "8.0 GB, 5.0 GB free" in text and "none: there is no NVIDIA driver" in text
    assert "● usable" in text and "○ not usable" in text
    assert "llamacpp: llama.cpp is not installed — pilothouse runtime install llamacpp-cpu" in text
    assert text.endswith("▲ beware")
    assert "gpu 0    RTX 4090, 24.0 GB" in report({"machine": MACHINE | {"gpus": [GPU]}, "engines": [], "warnings": []})

from engines.selection import Device, Installed, rank

CPU = Device("cpu", "the CPU", 8 << 30)
GPU = Device("cuda:0", "GPU 0 (RTX)", 4 << 30)
ORT_CPU = Installed("onnxruntime", "onnxruntime-cpu", "1.23", ["cpu"])
ORT_CUDA = Installed("onnxruntime", "onnxruntime-cuda", "1.23", ["cuda", "cpu"])
LLAMA = Installed("llamacpp", "llamacpp-cpu", "0.3", ["cpu"])


def test_a_gpu_comes_before_the_cpu_and_says_what_is_to_spare():
    ranked = rank("onnx", 1 << 30, [ORT_CPU, ORT_CUDA], [GPU, CPU])
    assert [(c.runtime, c.device, c.usable) for c in ranked] == [
        ("onnxruntime-cuda", "cuda:0", True),
        ("onnxruntime-cpu", "cpu", True),
        ("onnxruntime-cuda", "cpu", True),
        ("onnxruntime-cpu", "cuda:0", False),
    ]
    assert "to spare" in ranked[0].reason


def test_what_does_not_fit_is_not_usable_and_says_by_how_much():
    first = rank("gguf", 20 << 30, [LLAMA], [CPU])[0]
    assert not first.usable
    assert "needs about 21.6 GB" in first.reason


def test_what_was_asked_for_leaves_only_that():
    ranked = rank("onnx", 1, [ORT_CPU, ORT_CUDA], [GPU, CPU], engine="onnxruntime-cuda", device="cuda")
    assert [(c.runtime, c.device) for c in ranked] == [("onnxruntime-cuda", "cuda:0")]


def test_an_engine_for_another_format_is_no_candidate():
    assert rank("gguf", 1, [ORT_CPU], [CPU]) == []
    assert rank("docx", 1, [ORT_CPU], [CPU]) == []

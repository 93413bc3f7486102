import pytest

from app.deployments.placement import Piece, decide, decide_each, fit, memory_bytes
from app.errors import InsufficientMemory, InvalidInput
from app.schema.manage import Cpu, Gpu, Hardware
from engines.selection import Device, Installed

CPU = Device("cpu", "the CPU", 64 << 30)
GPU = Device("cuda:0", "GPU 0", 24 << 30)
#: Gemma 3 270M in Q4_K_M, as its header tells.
GEMMA = Piece(253_113_024, {"context_tokens": 32768, "layers": 18, "kv_values_per_token": [4608, 4608]})
LLAMACPP = [Installed("llamacpp", "llamacpp-cpu", "0.3", ["cpu", "cuda"])]


def kv_bytes(place=CPU, piece=GEMMA, **settings):
    return memory_bytes([piece], settings, place) - piece.size_bytes


def test_key_value_memory_counts_for_every_sequence():
    assert kv_bytes() == 8 * 4096 * 9216 * 2
    assert kv_bytes(sequences=2, context_tokens=1024) == 2 * 1024 * 9216 * 2
    assert kv_bytes(kv_tokens=1000) == 1000 * 9216 * 2


def test_quantised_key_value_memory_is_smaller():
    assert kv_bytes(cache_type_k="q8_0", cache_type_v="q4_0") == 8 * 4096 * 4608 * (34 + 18) // 32
    assert kv_bytes(cache_type_k="f32") == 8 * 4096 * 4608 * 6


def test_no_more_context_than_the_model_was_trained_on():
    assert kv_bytes(context_tokens=1 << 20) == 8 * 32768 * 9216 * 2
    small = Piece(1, {"context_tokens": 512, "kv_values_per_token": [64, 64]})
    assert kv_bytes(piece=small) == 8 * 512 * 128 * 2


def test_a_default_context_gives_way_where_memory_is_short_and_one_that_was_asked_for_does_not():
    short = Device("cpu", "the CPU", 800_000_000)
    assert kv_bytes(short) == 8 * 2048 * 9216 * 2
    assert kv_bytes(Device("cpu", "the CPU", 1)) == 8 * 512 * 9216 * 2
    assert kv_bytes(short, context_tokens=4096) == 8 * 4096 * 9216 * 2


def test_a_header_that_says_nothing_costs_nothing():
    assert kv_bytes(piece=Piece(5, {})) == 0


def test_parts_count_too():
    draft, projector = Piece(10, {"kv_values_per_token": [1, 1]}), Piece(1000, {})
    assert memory_bytes([GEMMA, draft, projector], {}, CPU) == GEMMA.size_bytes + kv_bytes() + 10 + 8 * 4096 * 4 + 1000


@pytest.mark.parametrize(("layers", "share"), [(0, 0), (9, 9 / 19), (18, 18 / 19), (19, 1), (-1, 1)])
def test_a_gpu_needs_memory_only_for_its_layers(layers, share):
    whole = memory_bytes([GEMMA], {}, GPU)
    assert memory_bytes([GEMMA], {"gpu_layers": layers}, GPU) == int(whole * share)
    assert memory_bytes([GEMMA], {"gpu_layers": layers}, CPU) == whole


def machine(free_bytes, gpu_free_bytes):
    gpu = Gpu(index=0, uuid="G", name="RTX", memory_total_bytes=gpu_free_bytes, memory_used_bytes=0)
    return Hardware(
        time="",
        hostname="",
        os="",
        cpu=Cpu(name="", physical_cores=1, logical_cores=1),
        cpu_percent=0,
        memory_total_bytes=free_bytes,
        memory_used_bytes=0,
        disk_free_bytes=0,
        gpus=[gpu],
    )


def test_the_decision_reckons_with_the_context():
    hardware = machine(64 << 30, 1 << 30)

    def chosen(**settings):
        return decide("gguf", [GEMMA], settings, LLAMACPP, hardware, engine="auto", device="auto")[1]

    assert chosen().device == "cuda:0"
    assert chosen(context_tokens=32768).device == "cpu"
    assert chosen(context_tokens=32768, gpu_layers=2).device == "cuda:0"
    assert chosen().memory_bytes > GEMMA.size_bytes + kv_bytes(Device("cuda:0", "", 1 << 30))


def test_what_does_not_fit_says_what_to_lower():
    with pytest.raises(InsufficientMemory, match="needs about 5") as caught:
        decide(
            "gguf",
            [GEMMA],
            {"context_tokens": 32768},
            LLAMACPP,
            machine(1 << 30, 1 << 30),
            engine="auto",
            device="auto",
        )
    assert "context_tokens" in caught.value.hint


def gpus(*free_bytes, cpu_free_bytes=64 << 30):
    hardware = machine(cpu_free_bytes, 0)
    hardware.gpus = [
        Gpu(index=n, uuid=f"G{n}", name="RTX", memory_total_bytes=size, memory_used_bytes=0)
        for n, size in enumerate(free_bytes)
    ]
    return hardware


FIXED = {"context_tokens": 4096}  # else it gives way where memory is short


def decided(device, hardware, **more):
    return decide_each("gguf", [GEMMA], FIXED, LLAMACPP, hardware, engine="auto", device=device, **more)


def test_several_devices_are_one_decision_with_a_candidate_for_each():
    decision, chosen = decided("cuda:0, cuda:1", gpus(24 << 30, 24 << 30))
    assert [candidate.device for candidate in chosen] == ["cuda:0", "cuda:1"]
    assert [(c.device, c.chosen) for c in decision.candidates] == [("cuda:0", True), ("cuda:1", True)]
    assert decision.reason.startswith("one queue for 2 devices")


def test_one_device_or_the_same_twice_is_decided_as_before():
    hardware = gpus(24 << 30, 24 << 30)
    assert decided("auto", hardware) == decided_once("auto", hardware)
    assert decided("cuda:1,cuda:1", hardware) == decided_once("cuda:1", hardware)


def decided_once(device, hardware):
    decision, chosen = decide("gguf", [GEMMA], FIXED, LLAMACPP, hardware, engine="auto", device=device)
    return decision, [chosen]


def test_auto_is_no_device_among_others_and_each_must_be_there():
    with pytest.raises(InvalidInput, match="auto is one device"):
        decided("cuda:0,auto", gpus(1))
    with pytest.raises(InvalidInput, match="no device 'cuda:7'"):
        decided("cuda:0,cuda:7", gpus(24 << 30))


def test_what_the_present_workers_hold_counts_as_free_for_what_replaces_them():
    _, [before] = decided("auto", gpus(24 << 30))
    full = gpus(before.memory_bytes - 1)
    assert decided("auto", full)[1][0].device == "cpu"
    _, chosen = decided("auto", full, returned_bytes={"cuda:0": 1 << 20})
    assert chosen[0].device == "cuda:0"
    assert not fit(chosen, 1, full)


def test_whether_replicas_fit_counts_each_device_by_itself():
    _, chosen = decided("cuda:0,cuda:1", gpus(24 << 30, 24 << 30))
    need = chosen[0].memory_bytes
    assert fit(chosen, 2, gpus(need, need))
    assert not fit(chosen, 3, gpus(need, need))  # the third goes to the first device again
    assert fit(chosen, 3, gpus(2 * need, need))
    unknown = gpus(need, need)
    unknown.gpus[0].memory_used_bytes = None
    assert fit(chosen, 9, gpus(5 * need, 4 * need)) and fit(chosen, 3, unknown)

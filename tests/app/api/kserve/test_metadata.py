"""What a model says of itself, and ModelConfiguration."""

import pytest

from app.api.kserve import metadata
from app.dataplane.routing import Target
from app.errors import NotFound
from app.schema.manage import Deployment, DeploymentSpec, Pipeline, PipelineStep
from engines.card import Card
from engines.protocol import LanguageModel, Signature, TensorSpec

IMAGE = TensorSpec("image", "FP32", [-1, 1, 8, 8], batch_axis=0)
SCORES = TensorSpec("scores", "FP32", [-1, 3], batch_axis=0)
WORDS = TensorSpec("words", "BYTES", [-1, -1], batch_axis=0)


def target(*, inputs=(IMAGE,), outputs=(SCORES,), batched=True, card=None, labels=(), engine="onnxruntime"):
    signature = Signature(list(inputs), list(outputs), batched, list(labels))
    return Target(
        "route", "model", 3, "", 0, engine=engine, signature=signature, card=card or Card(), max_batch_size=16
    )


def config(found, device="cpu", pipeline=None, **spec):
    declared = DeploymentSpec(model="model", pipeline=pipeline, **spec)
    deployment = Deployment(
        route="route", model="model", version=3, task="", spec=declared, state="ready", device=device
    )
    return metadata.config(found, deployment)


def test_metadata_names_the_tensors_with_their_batch():
    found = metadata.model(target())
    assert (found.name, found.versions, found.platform) == ("route", ["3"], "onnxruntime_onnx")
    assert (found.inputs[0].name, found.inputs[0].datatype, found.inputs[0].shape) == ("image", "FP32", [-1, 1, 8, 8])
    assert found.outputs[0].shape == [-1, 3]


def test_a_language_model_is_none_of_this_protocols():
    language = LanguageModel(1, 1, 1, "")
    with pytest.raises(NotFound, match="language model"):
        metadata.model(Target("route", "model", 1, "", 0, language=language))


def test_dimensions_of_a_configuration_leave_out_the_batch():
    found = config(target(outputs=(SCORES, WORDS)))
    assert found["max_batch_size"] == 16
    assert found["input"][0]["dims"] == [1, 8, 8]
    assert found["input"][0]["data_type"] == "TYPE_FP32"
    assert [(entry["data_type"], entry["dims"]) for entry in found["output"]] == [
        ("TYPE_FP32", [3]),
        ("TYPE_STRING", [-1]),
    ]
    assert "dynamic_batching" in found


@pytest.mark.parametrize(
    "inputs",
    [
        (IMAGE, TensorSpec("rate", "INT64", [], batch_axis=-1)),  # shared by all of a batch
        (TensorSpec("state", "FP32", [2, -1, 8], batch_axis=1),),  # batches along another axis
    ],
)
def test_what_a_configuration_has_no_words_for_is_told_as_not_batched(inputs):
    found = config(target(inputs=inputs))
    assert found["max_batch_size"] == 0
    assert [entry["dims"] for entry in found["input"]] == [spec.shape for spec in inputs]
    assert "dynamic_batching" not in found


def test_a_model_that_does_not_batch_has_all_its_dimensions():
    found = config(target(batched=False))
    assert (found["max_batch_size"], found["input"][0]["dims"]) == (0, [-1, 1, 8, 8])


def test_an_output_with_as_many_values_as_labels_has_a_label_file():
    found = config(target(outputs=(SCORES, WORDS), card=Card(labels=["a", "b", "c"])))
    assert [entry["label_filename"] for entry in found["output"]] == ["labels.txt", ""]
    assert config(target(labels=["a", "b", "c"]))["output"][0]["label_filename"] == "labels.txt"
    assert config(target(labels=["a"]))["output"][0]["label_filename"] == ""


def test_settings_of_a_deployment_show_in_its_configuration():
    settings = {
        "max_queue_delay_us": 250,
        "preferred_batch_sizes": [4, 8],
        "preserve_order": True,
        "priority_levels": 3,
        "queue_limit": 9,
        "request_timeout_s": 1.5,
        "response_cache": True,
    }
    found = config(target(), settings=settings)
    batching = found["dynamic_batching"]
    assert batching["max_queue_delay_microseconds"] == 250
    assert batching["preferred_batch_size"] == [4, 8]
    assert batching["preserve_ordering"] is True
    assert (batching["priority_levels"], batching["default_priority_level"]) == (3, 2)
    assert batching["default_queue_policy"]["max_queue_size"] == 9
    assert batching["default_queue_policy"]["default_timeout_microseconds"] == 1_500_000
    assert found["response_cache"] == {"enable": True}


def test_instances_are_dealt_to_devices():
    assert config(target(), replicas=2)["instance_group"] == [
        {"name": "route", "kind": "KIND_CPU", "count": 2, "gpus": []}
    ]
    found = config(target(), device="cuda:0,cuda:1", replicas=3)["instance_group"]
    assert [(group["kind"], group["count"], group["gpus"]) for group in found] == [
        ("KIND_GPU", 2, [0]),
        ("KIND_GPU", 1, [1]),
    ]


def test_a_model_with_state_batches_sequences():
    state = TensorSpec("state", "FP32", [2, -1, 8], batch_axis=1)
    found = config(target(inputs=(IMAGE, state), card=Card(states={"state": "scores"})))
    batching = found["sequence_batching"]
    assert batching["max_sequence_idle_microseconds"] == 60_000_000
    assert batching["state"][0] | {"dims": None} == {
        "input_name": "state", "output_name": "scores", "data_type": "TYPE_FP32", "dims": None,
    }  # fmt: skip


def test_a_pipeline_is_an_ensemble():
    step = PipelineStep(name="one", route="digits", inputs={"image": "image"}, outputs={"scores": "scores"})
    found = config(target(engine="ensemble"), pipeline=Pipeline(steps=[step], outputs={"scores": "scores"}))
    assert found["platform"] == "ensemble"
    assert "instance_group" not in found
    assert found["ensemble_scheduling"]["step"] == [
        {
            "model_name": "digits",
            "model_version": -1,
            "input_map": {"image": "image"},
            "output_map": {"scores": "scores"},
        }
    ]

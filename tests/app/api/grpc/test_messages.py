"""Our messages are the generator's, and say the same as Triton's on the wire."""

import re
import runpy
from pathlib import Path

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from app.api.grpc import inference_pb2
from app.api.grpc.server import SERVICE
from app.api.grpc.service import InferenceService

ROOT = Path(__file__).resolve().parents[4]
MESSAGES = inference_pb2.DESCRIPTOR.message_types_by_name
THEIRS = {**model_config_pb2.DESCRIPTOR.message_types_by_name, **service_pb2.DESCRIPTOR.message_types_by_name}


def without_version(text: str) -> str:
    """Another release of the generator only says that it is another."""
    text = re.sub(r"# Protobuf Python Version: .*", "", text)
    return re.sub(r"ValidateProtobufRuntimeVersion\([^)]*\)", "", text)


def test_the_generated_files_are_what_the_generator_makes_of_the_source(tmp_path: Path):
    runpy.run_path(str(ROOT / "packaging/grpc_messages.py"))["generate"](tmp_path)
    folder = Path("app/api/grpc")
    for name in ("inference_pb2.py", "inference_pb2.pyi"):
        made = (tmp_path / folder / name).read_text(encoding="utf-8")
        assert without_version(made) == without_version((ROOT / folder / name).read_text(encoding="utf-8")), name


def wire(field) -> tuple:
    """All of a field that a peer can see."""
    kind = field.message_type or field.enum_type
    return (
        field.number,
        field.type,
        field.is_repeated,
        kind.full_name if kind else None,
        field.containing_oneof.name if field.containing_oneof else None,
    )


def compare(ours, theirs) -> int:
    """The fields compared, those of nested messages too."""
    known = {field.name: wire(field) for field in theirs.fields}
    for field in ours.fields:
        assert wire(field) == known.get(field.name), field.full_name
    for enum in ours.enum_types:
        assert values(enum) == values(theirs.enum_types_by_name[enum.name])
    nested = sum(compare(message, theirs.nested_types_by_name[message.name]) for message in ours.nested_types)
    return len(ours.fields) + nested


def values(enum) -> dict[str, int]:
    return {value.name: value.number for value in enum.values}


@pytest.mark.parametrize("name", MESSAGES)
def test_names_numbers_and_types_are_tritons(name: str):
    assert compare(MESSAGES[name], THEIRS[name]) >= len(MESSAGES[name].fields)


def test_all_that_the_client_can_send_or_read_is_declared():
    """The model configuration aside, of which we declare what we say."""
    service = service_pb2.DESCRIPTOR.message_types_by_name
    assert set(service) <= set(MESSAGES)
    for name, message in service.items():
        assert {field.name for field in message.fields} == {field.name for field in MESSAGES[name].fields}, name
    types = inference_pb2.DESCRIPTOR.enum_types_by_name["DataType"]
    assert values(types) == values(model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"])


def test_the_service_is_tritons_and_each_method_is_served():
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]

    def signature(service) -> dict[str, tuple]:
        return {
            m.name: (m.input_type.full_name, m.output_type.full_name, m.client_streaming, m.server_streaming)
            for m in service.methods
        }

    assert SERVICE.full_name == theirs.full_name
    assert signature(SERVICE) == signature(theirs)
    served = {method.name: method.failed is not None for method in InferenceService(service=None).methods()}
    assert served == {method.name: method.server_streaming for method in SERVICE.methods}

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.registry import external_data
from app.registry.external_data import locations


def save(path, **external):
    weights = [numpy_helper.from_array(np.ones((300, 4), np.float32), name) for name in ("a", "b")]
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    onnx.save_model(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], weights)), path, **external)
    return path


def test_weights_in_one_file_beside_the_model(tmp_path):
    path = save(tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin")
    assert locations(path) == ["weights.bin"]


def test_weights_in_a_file_each(tmp_path):
    path = save(tmp_path / "m.onnx", save_as_external_data=True, all_tensors_to_one_file=False)
    assert sorted(locations(path)) == ["a", "b"]


def test_weights_inside(tmp_path):
    assert locations(save(tmp_path / "m.onnx")) == []


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x3a\xff\xff\xff\xff\x7f", b"\x80" * 20])
def test_what_is_no_onnx_names_nothing(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert locations(path) == []


def test_a_file_that_shrinks_while_it_is_read_names_nothing(tmp_path, monkeypatch):
    path = save(tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin")
    whole = path.stat()
    monkeypatch.setattr(type(path), "stat", lambda self, **_: whole)
    path.write_bytes(path.read_bytes()[:40])
    assert locations(path) == []


def test_a_graph_larger_than_what_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(external_data, "_WINDOW_BYTES", 7)
    path = save(tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin")
    assert locations(path) == ["weights.bin"]

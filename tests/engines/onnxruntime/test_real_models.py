"""Models that nobody here wrote, and those of the libraries whose files people bring."""

import json

import numpy as np
import pytest

from engines.engine import EngineError
from engines.onnxruntime.engine import OnnxRuntimeEngine
from engines.protocol import Load
from tests.support.voice import voice

pytest.importorskip("skl2onnx")
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


@pytest.fixture
def load(tmp_path):
    def load(model, **more):
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return OnnxRuntimeEngine(Load(engine="onnxruntime", path=str(path), threads=1, **more))

    return load


def open_file(model):
    return OnnxRuntimeEngine(Load(engine="onnxruntime", path=str(model.path), threads=1))


@pytest.mark.parametrize("zip_map", [True, False])
@pytest.mark.parametrize("names", [True, False])
def test_a_forest_gives_probabilities_with_and_without_zip_map(load, zip_map, names):
    data = load_iris()
    classes = data.target_names[data.target] if names else data.target
    forest = RandomForestClassifier(10, random_state=0).fit(data.data, classes)
    options = {id(forest): {"zipmap": zip_map}}
    engine = load(to_onnx(forest, data.data[:1].astype(np.float32), options=options, target_opset=17))
    signature = engine.ready.signature
    assert signature.batched and not engine.ready.notes
    assert [spec.datatype for spec in signature.outputs] == ["BYTES" if names else "INT64", "FP32"]
    assert signature.outputs[1].batch_axis == 0
    if zip_map:
        assert signature.labels == ([*data.target_names] if names else ["0", "1", "2"])
    rows = data.data[::10].astype(np.float32)
    label, probabilities = engine.infer({"X": rows}, []).values()
    assert label.tolist() == forest.predict(rows).tolist()
    np.testing.assert_allclose(probabilities, forest.predict_proba(rows), atol=1e-5)


def test_a_pipeline_of_strings_and_numbers_takes_each_column_by_itself(load):
    colours = np.array([["red"], ["green"], ["red"], ["blue"]] * 5, dtype=object)
    sizes = np.arange(20, dtype=np.float32).reshape(-1, 1)
    columns = ColumnTransformer([("c", OneHotEncoder(handle_unknown="ignore"), [0]), ("n", StandardScaler(), [1])])
    table = np.concatenate([colours, sizes.astype(object)], axis=1)
    pipeline = make_pipeline(columns, LogisticRegression()).fit(table, [0, 1, 0, 1] * 5)
    types = [("colour", StringTensorType([None, 1])), ("size", FloatTensorType([None, 1]))]
    engine = load(to_onnx(pipeline, initial_types=types, options={"zipmap": False}, target_opset=17))
    signature = engine.ready.signature
    assert signature.batched
    assert [(spec.name, spec.datatype, spec.shape) for spec in signature.inputs] == [
        ("colour", "BYTES", [-1, 1]),
        ("size", "FP32", [-1, 1]),
    ]
    sent = np.array([[c.encode()] for c in ("red", "blue", "violet")], dtype=object)
    answer = engine.infer({"colour": sent, "size": sizes[:3]}, ["probabilities"])
    known = np.array([["red", 0.0], ["blue", 1.0], ["violet", 2.0]], dtype=object)
    np.testing.assert_allclose(answer["probabilities"], pipeline.predict_proba(known), atol=1e-5)


def test_xgboost(load):
    xgboost = pytest.importorskip("xgboost")
    convert = pytest.importorskip("onnxmltools.convert")
    types = pytest.importorskip("onnxmltools.convert.common.data_types")
    data = load_breast_cancer()
    model = xgboost.XGBClassifier(n_estimators=10, n_jobs=1).fit(data.data, data.target)
    onnx = convert.convert_xgboost(model, initial_types=[("x", types.FloatTensorType([None, 30]))], target_opset=15)
    engine = load(onnx)
    assert engine.ready.signature.batched
    rows = data.data[:40].astype(np.float32)
    label, probabilities = engine.infer({"x": rows}, []).values()
    assert label.tolist() == model.predict(rows).tolist()
    np.testing.assert_allclose(probabilities, model.predict_proba(rows), atol=1e-4)


def test_lightgbm_with_its_maps_and_no_feature_count(load):
    lightgbm = pytest.importorskip("lightgbm")
    convert = pytest.importorskip("onnxmltools.convert")
    types = pytest.importorskip("onnxmltools.convert.common.data_types")
    data = load_wine()
    model = lightgbm.LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1).fit(data.data, data.target)
    kind = types.FloatTensorType([None, None])
    engine = load(convert.convert_lightgbm(model, initial_types=[("x", kind)], target_opset=15, zipmap=True))
    signature = engine.ready.signature
    assert signature.batched
    assert signature.labels == ["0", "1", "2"]
    assert signature.outputs[1].shape == [-1, 3]
    rows = data.data[::9].astype(np.float32)
    label, probabilities = engine.infer({"x": rows}, []).values()
    assert label.tolist() == model.predict(data.data[::9]).tolist()
    np.testing.assert_allclose(probabilities, model.predict_proba(data.data[::9]), atol=1e-4)


def test_magika_tells_file_types_and_batches(magika):
    engine = open_file(magika)
    signature = engine.ready.signature
    assert signature.batched and not engine.ready.notes
    assert [(spec.datatype, spec.shape, spec.batch_axis) for spec in signature.inputs] == [("INT32", [-1, 2048], 0)]
    config = json.loads((magika.path.parent / "config.min.json").read_text())
    half, padding = config["beg_size"], config["padding_token"]

    def features(content):
        """The first and the last bytes of what is left without surrounding whitespace, as the package's own code."""
        beginning = list(content[: config["block_size"]].lstrip()[:half])
        end = list(content[-config["block_size"] :].rstrip()[-config["end_size"] :])
        beginning += [padding] * (half - len(beginning))
        return beginning + [padding] * (config["end_size"] - len(end)) + end

    python = b"import sys\n\n\ndef main():\n    for line in sys.stdin:\n        print(line.strip())\n\n\nmain()\n" * 3
    markup = b"<!DOCTYPE html>\n<html><head><title>t</title></head><body><p>Hello</p></body></html>\n" * 3
    both = engine.infer({"bytes": np.array([features(python), features(markup)], np.int32)}, [])["target_label"]
    names = [config["target_labels_space"][index] for index in both.argmax(axis=1)]
    assert names == ["python", "html"]


def test_silero_vad_hears_the_difference_and_keeps_its_state(silero_vad):
    engine = open_file(silero_vad)
    signature = engine.ready.signature
    assert signature.batched and not engine.ready.notes
    axes = {spec.name: spec.batch_axis for spec in [*signature.inputs, *signature.outputs]}
    assert axes == {"input": 0, "state": 1, "sr": -1, "output": 0, "stateN": 1}
    rate = np.array(16000, np.int64)
    sound = voice(4)
    both = np.stack([sound, np.zeros_like(sound)])
    # As the package's own code: 512 new samples, after the last 64 of those before.
    padded = np.pad(both, ((0, 0), (64, 0)))
    state, alone = np.zeros((2, 2, 128), np.float32), np.zeros((2, 1, 128), np.float32)
    heard = []
    for start in range(0, both.shape[1] - 511, 512):
        frame = padded[:, start : start + 576]
        answer = engine.infer({"input": frame, "state": state, "sr": rate}, [])
        single = engine.infer({"input": frame[:1], "state": alone, "sr": rate}, [])
        np.testing.assert_allclose(answer["output"][:1], single["output"], atol=1e-4)
        state, alone = answer["stateN"], single["stateN"]
        heard.append(answer["output"][:, 0])
    speech, silence = np.array(heard).T
    assert silence.max() < 0.05
    assert speech.max() > 0.95


def test_silero_vad_that_loops_over_its_frames_is_not_batched(silero_vad):
    path = silero_vad.path.with_name("silero_vad_16k_sequence.onnx")
    engine = OnnxRuntimeEngine(Load(engine="onnxruntime", path=str(path), threads=1))
    assert not engine.ready.signature.batched
    assert "does not follow the rows" in engine.ready.notes[0]


def test_a_request_of_a_length_that_the_model_cannot_take_fails_alone(silero_vad):
    engine = open_file(silero_vad)
    inputs = {"state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16000)}
    with pytest.raises(EngineError) as caught:
        engine.infer(inputs | {"input": np.zeros((1, 3), np.float32)}, [])
    assert caught.value.code == "invalid_input"
    assert engine.infer(inputs | {"input": np.zeros((1, 576), np.float32)}, [])["output"].shape == (1, 1)

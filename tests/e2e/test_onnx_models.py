"""Files as people have them, dropped in without a configuration and asked by Triton's client."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
import tritonclient.http as triton
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.support.daemon import RunningDaemon
from tests.support.voice import voice


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with RunningDaemon(tmp_path_factory.mktemp("onnx") / "data") as running:
        yield running


@pytest.fixture
def serve(daemon):
    """Pull a file or folder, deploy it, and say what came of it."""

    def serve(path, name):
        daemon.pull(f"file:{path}", name=name)
        deployment = daemon.deploy(name, settings={"threads": 1})
        assert deployment["state"] == "ready", deployment["error"]
        return deployment

    return serve


@pytest.fixture
def client(daemon):
    """A client for each thread: they share none."""
    return lambda: triton.InferenceServerClient(daemon.url.removeprefix("http://"))


@pytest.fixture
def infer(client):
    def infer(model, **inputs):
        sent = [
            triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)).set_data_from_numpy(array)
            for name, array in inputs.items()
        ]
        with client() as connection:
            return connection.infer(model, sent)

    return infer


def test_a_forest_with_named_classes_answers_with_probabilities(serve, infer, tmp_path):
    data = load_iris()
    forest = RandomForestClassifier(5, random_state=0).fit(data.data, data.target_names[data.target])
    path = tmp_path / "forest.onnx"
    path.write_bytes(to_onnx(forest, data.data[:1].astype(np.float32), target_opset=17).SerializeToString())
    deployment = serve(path, "forest")
    assert deployment["notes"] == []
    rows = data.data[::30].astype(np.float32)
    answer = infer("forest", X=rows)
    assert [name.decode() for name in answer.as_numpy("output_label")] == forest.predict(rows).tolist()
    probabilities = answer.as_numpy("output_probability")
    np.testing.assert_allclose(probabilities, forest.predict_proba(rows), atol=1e-5)


def test_streams_of_sound_share_batches_and_keep_their_states_apart(serve, infer, client, silero_vad):
    serve(silero_vad.path, "vad")
    sounds = [voice(4), np.zeros(16000, np.float32), 0.5 * voice(4), 0.01 * voice(4)[::-1]]

    def hear(sound):
        padded, state, heard = np.pad(sound, (64, 0)), np.zeros((2, 1, 128), np.float32), []
        for start in range(0, len(sound) - 511, 512):
            frame = padded[None, start : start + 576].copy()
            answer = infer("vad", input=frame, state=state, sr=np.array(16000, np.int64))
            state = answer.as_numpy("stateN")
            heard.append(float(answer.as_numpy("output")[0, 0]))
        return heard

    alone = [hear(sound) for sound in sounds]
    with ThreadPoolExecutor(len(sounds)) as pool:
        together = list(pool.map(hear, sounds))
    np.testing.assert_allclose(together, alone, atol=1e-3)
    assert max(alone[0]) > 0.95 and max(alone[1]) < 0.05
    with client() as connection:
        (statistics,) = connection.get_inference_statistics("vad")["model_stats"]
    assert int(statistics["execution_count"]) < int(statistics["inference_count"]), "nothing was batched"


def test_weights_beside_the_model_come_with_it(serve, infer, tmp_path):
    weights = numpy_helper.from_array(np.full((2, 2), 3.0, np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder = tmp_path / "split"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    serve(folder, "split")
    assert infer("split", x=np.ones((1, 2), np.float32)).as_numpy("y").tolist() == [[6, 6]]


def test_what_does_not_batch_says_so_and_a_bad_request_ends_nothing(serve, infer, daemon, tmp_path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in "xy")
    i = helper.make_tensor_value_info("i", TensorProto.INT64, [1])
    nodes = [
        helper.make_node("Softmax", ["x"], ["s"], axis=0),
        helper.make_node("Gather", ["s", "i"], ["y"], axis=1),
    ]
    graph = helper.make_graph(nodes, "g", [x, i], [y])
    path = tmp_path / "mixed.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    deployment = serve(path, "mixed")
    (note,) = deployment["notes"]
    assert "rows of a batch influence each other" in note
    workers = [worker.pid for worker in daemon.workers()]
    numbers = np.zeros((2, 3), np.float32)
    with pytest.raises(InferenceServerException, match="out of data bounds") as caught:
        infer("mixed", x=numbers, i=np.array([9]))
    assert caught.value.status() == "400"
    assert infer("mixed", x=numbers, i=np.array([1])).as_numpy("y").tolist() == [[0.5], [0.5]]
    assert [worker.pid for worker in daemon.workers()] == workers

"""Classes, embeddings and rankings of tensor models in a real daemon: pulled, described, deployed, asked."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import openai
import pytest
import tritonclient.http as triton
from click.testing import CliRunner
from PIL import Image

from app.cli import main
from app.paths import resource
from app.registry.catalog import Catalog
from tests.support import tiny_text
from tests.support.daemon import RunningDaemon

TEXTS = ["a cat", "sun sun rain", "dog", "good good dog awful"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A daemon with ``embedder``, ``classifier``, ``ranker`` and ``digits``."""
    folder = tmp_path_factory.mktemp("tasks")
    with RunningDaemon(folder / "data") as daemon:
        for name, make in (
            ("embedder", tiny_text.embedder),
            ("classifier", tiny_text.classifier),
            ("ranker", tiny_text.cross_encoder),
        ):
            make(folder / name)
            daemon.pull(f"file:{folder / name}", name=name)
        for name in ("embedder", "classifier", "ranker", "digits"):
            state = daemon.deploy(name)
            assert state["state"] == "ready", state["error"]
        yield daemon


@pytest.fixture
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        yield client


def refused(daemon, path, body, status=400):
    answer = daemon.http.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


# --- embeddings and rerank ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["float", "base64"])
def test_openais_client_gets_the_embeddings_that_numpy_gets(client, form):
    answer = client.embeddings.create(model="embedder", input=TEXTS, encoding_format=form)
    assert [entry.index for entry in answer.data] == [0, 1, 2, 3]
    for entry, text in zip(answer.data, TEXTS, strict=True):
        values = entry.embedding
        values = np.frombuffer(base64.b64decode(values), "<f4") if isinstance(values, str) else np.array(values)
        np.testing.assert_allclose(values, tiny_text.embedding(text), atol=1e-6)
    assert answer.usage.prompt_tokens == sum(len(text.split()) for text in TEXTS)


def test_one_text_and_fewer_dimensions(client):
    whole = tiny_text.embedding("rain")[:3]
    answer = client.embeddings.create(model="embedder", input="rain", dimensions=3)
    np.testing.assert_allclose(answer.data[0].embedding, whole / np.linalg.norm(whole), atol=1e-6)


def test_what_an_embedder_does_not_take_is_named(served, client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="embedder", input=[[3, 4]])
    assert caught.value.param == "input[0]" and "not tokens" in caught.value.message
    assert refused(served, "/v1/embeddings", {"model": "embedder", "input": "cat", "dimensions": 7})["param"] == (
        "dimensions"
    )


def test_documents_are_ranked_by_cosine(served):
    documents = ["dog dog", "sun", "cat", "rain bad"]
    body = {"model": "embedder", "query": "cat", "documents": documents, "return_documents": True}
    answer = served.post("/v1/rerank", body)
    cosines = [float(tiny_text.embedding("cat") @ tiny_text.embedding(text)) for text in documents]
    assert [result["index"] for result in answer["results"]] == np.argsort(cosines)[::-1].tolist()
    for result in answer["results"]:
        assert result["relevance_score"] == pytest.approx(cosines[result["index"]], abs=1e-6)
    assert answer["results"][0]["document"] == {"text": "cat"}
    assert answer["usage"]["prompt_tokens"] == 7


def test_documents_are_ranked_by_a_cross_encoder(served):
    documents = ["sun", "rain rain dog", "good"]
    answer = served.post("/v1/rerank", {"model": "ranker", "query": "cat sun", "documents": documents})
    expected = [tiny_text.relevance("cat sun", text) for text in documents]
    assert [result["index"] for result in answer["results"]] == np.argsort(expected)[::-1].tolist()
    for result in answer["results"]:
        assert result["relevance_score"] == pytest.approx(expected[result["index"]], rel=1e-5)
    assert answer["usage"]["prompt_tokens"] == 3 * 3 + 5


# --- classes -------------------------------------------------------------------------------------------------


def test_texts_are_classified(served):
    answer = served.post("/v1/classify", {"model": "classifier", "input": TEXTS})
    for entry, text in zip(answer["data"], TEXTS, strict=True):
        positive = tiny_text.positive(text)
        assert entry["probs"] == pytest.approx([1 - positive, positive], abs=1e-6)
    assert answer["data"][3]["label"] == "positive"
    assert answer["usage"]["total_tokens"] == 10


def picture(digit: np.ndarray, size: int) -> str:
    """Dark ink on light paper, drawn larger."""
    grey = Image.fromarray((255 - np.round(digit * 255 / 16)).astype(np.uint8))
    file = io.BytesIO()
    grey.resize((size, size), Image.Resampling.BICUBIC).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@pytest.mark.parametrize(("size", "accuracy"), [(8, 0.983), (28, 0.98), (100, 0.975)])
def test_drawn_digits_are_read_out_of_the_box(served, size, accuracy):
    with np.load(resource("digits/held_out.npz")) as held_out:
        images, labels = held_out["image"][:, 0], held_out["labels"]
    given = [{"image": picture(image, size)} for image in images]
    answer = served.post("/v1/classify", {"model": "digits", "input": given})
    read = [int(entry["label"]) for entry in answer["data"]]
    assert np.mean(read == labels) >= accuracy
    assert all(sum(entry["probs"]) == pytest.approx(1, abs=1e-5) for entry in answer["data"])


def test_rows_are_classified_by_an_engine_that_knows_no_steps(served, tmp_path):
    (tmp_path / "echo.json").write_text('{"engine": "echo", "kind": "tensor"}')
    served.pull(f"file:{tmp_path / 'echo.json'}", name="rows")
    columns = [{"name": "size", "mean": 2}, {"name": "colour", "type": "category", "categories": ["red", "blue"]}]
    card = {
        "item": "row",
        "labels": ["size", "colour"],
        "before": [{"step": "columns", "columns": columns}],
        "after": [{"step": "softmax"}],
    }
    described = served.put("/manage/v1/models/rows/versions/1/card?task=tabular", card)
    assert (described["card"], served.get("/manage/v1/models/rows")["task"]) == (card, "tabular")
    assert served.deploy("rows")["state"] == "ready"
    given = [{"size": 2, "colour": "blue"}, [5, "red"]]
    answer = served.post("/v1/classify", {"model": "rows", "input": given})
    first, second = (np.exp(values) / np.exp(values).sum() for values in ([0, 1], [3, 0]))
    assert [entry["label"] for entry in answer["data"]] == ["colour", "size"]
    assert answer["data"][0]["probs"] == pytest.approx(first, rel=1e-5)
    assert answer["data"][1]["probs"] == pytest.approx(second, rel=1e-5)
    error = refused(served, "/v1/classify", {"model": "rows", "input": [*given, {"size": 1, "colour": "green"}]})
    assert error["param"] == "input[2]" and "green" in error["message"]


def test_an_item_at_fault_fails_its_own_request_alone(served):
    good = {"model": "digits", "input": [{"image": picture(np.zeros((8, 8)), 8)}]}
    bad = {"model": "digits", "input": [*good["input"], {"image": base64.b64encode(b"no picture").decode()}]}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: served.http.post("/v1/classify", json=body), [good, bad] * 16))
    assert [answer.status_code for answer in answers] == [200, 400] * 16
    assert {answer.json()["error"]["param"] for answer in answers[1::2]} == {"input[1]"}
    assert len({json.dumps(answer.json()["data"]) for answer in answers[::2]}) == 1


def test_what_each_route_can_do_is_shown(served):
    found = {card["id"]: card.get("capabilities") for card in served.get("/v1/models")["data"]}
    assert found["classifier"] == found["digits"] == ["classify"]
    assert found["embedder"] == ["embedding", "rerank"]
    assert found["ranker"] == ["rerank"]
    assert served.get("/manage/v1/deployments/embedder")["capabilities"] == found["embedder"]
    assert served.get("/manage/v1/models/embedder")["task"] == "embedding"


def test_routes_of_language_models_say_where_a_tensor_model_is_asked(served):
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
        ("/v1/completions", {"prompt": "hello"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}),
    ):
        error = refused(served, path, {"model": "digits"} | body)
        assert "/v1/classify" in error["message"], path


@pytest.mark.slow
def test_magika_tells_files_apart_as_the_catalogue_describes_it(served, magika, tmp_path):
    entry = Catalog.load().find("magika")
    labels = json.loads((magika.path.parent / entry.labels.path).read_text())[entry.labels.key]
    card = tmp_path / "card.json"
    card.write_text(json.dumps(msgspec.to_builtins(entry.card) | {"labels": labels}, indent=2))
    model = tmp_path / "model.onnx"
    model.write_bytes(magika.path.read_bytes())
    served.pull(f"file:{model}", name="magika")
    assert served.deploy("magika")["state"] == "ready"
    files = {
        "python": (tiny_text.__file__, None),
        "markdown": (None, b"# Title\n\nSome *words*, a [link](a.md).\n\n- one\n- two\n" * 4),
        "json": (None, card.read_bytes()),
        "png": (None, base64.b64decode(picture(np.zeros((8, 8)), 64).partition(",")[2])),
        "html": (resource("docs.html"), None),
    }
    contents = [Path(path).read_bytes() if path else content for path, content in files.values()]
    given = [{"file": base64.b64encode(content).decode()} for content in contents]
    answer = served.post("/v1/classify", {"model": "magika", "input": given})
    assert [entry["label"] for entry in answer["data"]] == list(files)
    assert {entry["num_classes"] for entry in answer["data"]} == {214}


def test_how_sure_a_model_is_of_items_is_watched(served):
    assert served.deploy("digits", "sure")["state"] == "ready"
    body = {"model": "sure", "input": [{"image": picture(np.zeros((8, 8)), 8)}]}
    best = served.post("/v1/classify", body)["data"][0]["scores"][0]["score"]
    sample = served.wait("metrics", "sure", lambda now: now["confidence"] is not None)
    assert sample["confidence"] == pytest.approx(best, abs=1e-3)


def test_tritons_client_sends_items_and_gets_what_the_steps_give(served):
    with triton.InferenceServerClient(served.url.removeprefix("http://")) as client:
        given = triton.InferInput("item", [len(TEXTS)], "BYTES")
        given.set_data_from_numpy(np.array([text.encode() for text in TEXTS], dtype=object))
        found = client.infer("embedder", [given])
        expected = np.array([tiny_text.embedding(text) for text in TEXTS])
        np.testing.assert_allclose(found.as_numpy("embedding"), expected, atol=1e-6)
        assert found.as_numpy("tokens").tolist() == [2, 3, 1, 4]
        wanted = [triton.InferRequestedOutput("label", binary_data=False)]
        labels = client.infer("classifier", [given], outputs=wanted).as_numpy("label")
        assert labels.shape == (4, 2) and labels[3, 0] == "positive"
    body = {"inputs": [{"name": "item", "datatype": "BYTES", "shape": [1], "data": ["cat"]}]}
    answer = served.http.post("/v2/models/nobody/infer", json=body)
    assert answer.status_code == 404


# --- describing ----------------------------------------------------------------------------------------------


@pytest.fixture
def pilothouse(served, monkeypatch):
    monkeypatch.setenv("PILOTHOUSE_DATA_DIR", str(served.data_dir))

    def run(*words, code=0):
        done = CliRunner().invoke(main, [str(word) for word in words])
        assert done.exit_code == code, done.output
        return done

    return run


def test_a_bare_model_is_described_and_answers_after_the_next_deploy(served, pilothouse, tmp_path):
    folder = tmp_path / "bare"
    tiny_text.classifier(folder, card=False)
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (folder / "tokenizer.json").unlink()
    served.pull(f"file:{folder}", name="bare")
    assert served.deploy("bare")["state"] == "ready"
    ask = {"model": "bare", "input": "good"}
    assert "pilothouse describe bare" in refused(served, "/v1/classify", ask)["message"]

    card, labels = tmp_path / "my.json", tmp_path / "labels.txt"
    card.write_text(json.dumps(tiny_text.CLASSIFIER))
    labels.write_text("no\nyes\n")
    missing = pilothouse("describe", "bare", "--card", card, code=1)
    assert "--file tokenizer.json" in missing.output
    done = pilothouse("describe", "bare@1", "--card", card, "--file", tmp_path / "tokenizer.json", "--labels", labels)
    assert "bare@1 is described: takes an item of text; steps tokenize, softmax, top_k; 2 labels" in done.output
    assert "bare runs it as it was before" in done.output
    assert any("described anew" in note for note in served.get("/manage/v1/deployments/bare")["notes"])
    refused(served, "/v1/classify", ask)  # the worker goes on as it was

    assert served.deploy("bare")["state"] == "ready"
    found = served.wait("deployment", "bare", lambda d: d["state"] == "ready" and d["capabilities"] == ["classify"])
    assert not any("described anew" in note for note in found["notes"])
    [entry] = served.post("/v1/classify", ask)["data"]
    assert (entry["label"], entry["probs"][1]) == ("yes", pytest.approx(tiny_text.positive("good")))
    assert served.get("/manage/v1/models/bare")["task"] == "text-classification"


def test_a_card_is_shown_with_its_defaults(served, pilothouse):
    shown = json.loads(pilothouse("describe", "embedder").output)
    assert shown == served.get("/manage/v1/models/embedder/versions/1/card")
    assert shown["before"][0]["file"] == "tokenizer.json"
    assert shown["after"][0] == {"step": "mean_pool", "input": "", "output": "embedding", "mask": "attention_mask"}


def test_a_card_that_cannot_be_is_refused_by_its_field(served):
    path = "/manage/v1/models/embedder/versions/1/card"
    for card, field in (
        ({"labels": "a"}, "labels"),
        ({"before": [{"step": "resize", "size": "8"}]}, "before[0].size"),
        ({"item": "text", "before": [{"step": "tokenize", "file": "other.json"}]}, "card.before[0].file"),
    ):
        answer = served.http.put(path, json=card)
        assert answer.status_code == 400
        assert answer.json()["error"]["details"]["field"] == field
    assert served.http.put(path.replace("embedder", "nobody"), json={}).status_code == 404
    assert served.http.put(path.replace("/1/", "/9/"), json={}).status_code == 404
    files = path.replace("/card", "/files/")
    assert served.http.put(files + "model.onnx", content=b"x").status_code == 400
    assert served.http.put(files + ".hidden", content=b"x").status_code == 400


def test_a_card_that_does_not_fit_the_model_fails_the_deployment_with_its_field(served, tmp_path):
    path = tiny_text.classifier(tmp_path / "wrong", card=False)
    path.with_name("card.json").write_text(
        json.dumps(tiny_text.CLASSIFIER | {"after": [{"step": "softmax", "input": "scores"}]})
    )
    served.pull(f"file:{path}", name="wrong")
    state = served.deploy("wrong")
    assert (state["state"], state["error"]["code"]) == ("failed", "bad_setting")
    assert state["error"]["message"].startswith("card.after[0].input")

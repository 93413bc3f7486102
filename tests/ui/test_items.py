"""Items, cards, timing, graphs and settings: what the window knows without a window."""

import json
import struct
import wave
from io import BytesIO

import pytest

from app.schema.manage import Deployment, DeploymentSpec, Pending, Pipeline, PipelineStep, Problem, Replica, RouteSample
from engines.card import AfterStep, BeforeStep
from tests.support.tensor_scene import CHURN_CARD, DIGITS_CARD, MINILM_CARD, PIPELINE, PRICE_CARD, RANKER_CARD
from ui import cards, graph, items, timing
from ui import deployment_settings as ds
from ui.pages.deployment_detail import cache_words
from ui.pages.describe import place_of
from ui.pages.monitor import batching_note, cache_note, step_parts
from ui.snippets import item_code
from ui.widgets.change_note import explanation, sentence
from ui.widgets.file_drop import peaks
from ui.widgets.raw_answer import pretty, shortened
from ui.widgets.strip_chart import buckets
from ui.words import device_name, devices, title


def tensor(name: str, datatype: str, data: list[object]) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": [1, len(data)], "data": data}


def deployment(**more: object) -> Deployment:
    spec = DeploymentSpec(model="m", version=1)
    return Deployment(**({"route": "r", "model": "m", "version": 1, "task": "", "spec": spec, "state": "ready"} | more))  # type: ignore[arg-type]


# --- asking ------------------------------------------------------------------------------------------------


def test_an_item_is_sent_as_one_bytes_element_in_binary() -> None:
    body, header_length = items.infer_body(b"\x00\xff")
    header = json.loads(body[:header_length])
    assert header["inputs"] == [
        {"name": "item", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}}
    ]
    assert body[header_length:] == struct.pack("<I", 2) + b"\x00\xff"


def test_what_a_card_asks_for() -> None:
    assert [items.kind(card) for card in (DIGITS_CARD, MINILM_CARD, {}, {"item": "smell"})] == ["image", "text", "", ""]
    assert items.pairs(RANKER_CARD) and not items.pairs(MINILM_CARD)
    assert [column["name"] for column in items.columns(CHURN_CARD)][:2] == ["age", "minutes"]
    assert items.unit(PRICE_CARD) == "€" and items.unit(CHURN_CARD) == ""


# --- answers -----------------------------------------------------------------------------------------------


def test_labels_with_scores_are_classes() -> None:
    names = [f"c{n}" for n in range(7)]
    answer = items.read_items([tensor("label", "BYTES", names), tensor("score", "FP32", [0.5] * 7)], [])  # type: ignore[list-item]
    assert answer.classes == [(f"c{n}", 0.5) for n in range(5)] and answer.class_count == 7
    assert not answer.values and not answer.series


def test_scores_of_every_class_are_classes_by_the_labels() -> None:
    answer = items.read_items([tensor("probabilities", "FP32", [0.1, 0.9])], ["no", "yes"])
    assert answer.classes == [("yes", 0.9), ("no", 0.1)] and not answer.series


def test_a_label_without_a_score_has_none() -> None:
    assert items.read_items([tensor("label", "BYTES", ["cat"])], ["cat"]).classes == [("cat", None)]


def test_embeddings_tokens_values_and_series_are_told_apart() -> None:
    answer = items.read_items(
        [
            tensor("embedding", "FP32", [0.6, 0.8]), tensor("tokens", "INT64", [9]), tensor("value", "FP32", [412.5]),
            tensor("speech", "FP32", [0.1, 0.9, 0.4]), tensor("words", "BYTES", ["a", "b"]),
        ],
        ["two", "labels"],
    )  # fmt: skip
    assert (answer.embedding, answer.tokens, answer.values) == ([0.6, 0.8], 9, [("value", 412.5)])
    assert answer.series == [("speech", [0.1, 0.9, 0.4])] and "words" in answer.summary and not answer.classes
    assert items.norm(answer.embedding) == pytest.approx(1)


def test_boxes_end_at_the_count() -> None:
    answer = items.read_items(
        [
            tensor("boxes", "FP32", [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0]), tensor("label", "BYTES", ["a", "b", ""]),
            tensor("score", "FP32", [0.9, 0.5, 0]), tensor("count", "INT64", [2]),
        ],
        [],
    )  # fmt: skip
    assert answer.boxes == [items.Box("a", 0.9, 1, 2, 3, 4), items.Box("b", 0.5, 5, 6, 7, 8)]
    assert answer.has_boxes and not answer.classes and not answer.values


def test_cosine() -> None:
    assert items.cosine([1, 0], [0, 2]) == 0
    assert items.cosine([1, 1], [2, 2]) == pytest.approx(1)
    assert items.cosine([0, 0], [1, 1]) is None and items.cosine([1], [1, 1]) is None


# --- time --------------------------------------------------------------------------------------------------

TOLD = {"server-timing": "queue;dur=0.100, input;dur=0.400, compute;dur=2.000, output;dur=0.1, a_b;dur=6.5"}


def test_the_time_of_an_answer_adds_up() -> None:
    parts = timing.parts(TOLD, 5.0)
    assert [name for name, _, _ in parts] == ["queue and batch", "preparing", "model", "there and back"]
    assert sum(value for _, value, _ in parts) == pytest.approx(5.0)
    assert timing.parts(TOLD, 1.0)[-1][1] == 0, "the clock here may be behind the daemon's"


def test_a_pipeline_tells_its_steps_and_a_hit_nothing() -> None:
    assert [(name, value) for name, value, _ in timing.parts(TOLD, 9, ["a b"])] == [("a b", 6.5)]
    assert timing.parts(TOLD | {"x-cache": "hit"}, 5.0) == [] == timing.parts({}, 5.0)
    assert timing.server_timing("a;dur=x, b, c;desc=1;dur=2") == {"c": 2.0}


def test_the_cache_is_told_in_words() -> None:
    assert timing.sentence({"x-cache": "hit"}, 0.42) == "0.42 ms · from the cache"
    assert timing.sentence({"x-cache": "miss"}, 2) == "2 ms · not cached"
    assert timing.sentence({}, 2) == "2 ms"


# --- code --------------------------------------------------------------------------------------------------


def test_code_asks_where_the_model_is_asked() -> None:
    texts = item_code("http://h:1", "s", "classify", "it's good")
    assert "/v1/classify" in texts["curl"] and "it'\\''s good" in texts["curl"]
    compile(texts["Python"], "snippet", "exec")
    picture = item_code("http://h:1", "d", "classify", {"image": "a three.png"})
    assert "base64 -w0 'a three.png'" in picture["curl"]
    compile(picture["Python"], "snippet", "exec")
    pair = item_code("http://h:1", "r", "rerank", {"query": "q", "documents": ["d"]})
    assert '"documents": ["d"]' in pair["curl"] and '"input"' not in pair["curl"]


def test_code_for_what_is_neither_classes_nor_embedding_uses_tensors() -> None:
    row = item_code("http://h:1", "price", "", {"row": {"age": 4}})
    assert json.loads(row["curl"].split("-d '")[1][:-1])["inputs"][0]["data"] == ['{"age": 4}']
    compile(row["Python"], "snippet", "exec")
    assert list(item_code("http://h:1", "boxes", "", {"image": "a.png"})) == ["Python"]


# --- cards -------------------------------------------------------------------------------------------------


def test_a_card_in_words() -> None:
    told = dict(cards.facts(DIGITS_CARD | {"labels": [str(n) for n in range(10)]}))
    assert told["Takes"] == "a picture"
    assert told["Before"] == "grey picture → resized to 8×8 → scaled → channels first"
    assert told["Labels"] == "10 classes: 0, 1, 2, 3, 4, 5 …"
    assert told["Units"] == "image: 0 (paper) to 16 (ink)"
    assert dict(cards.facts(RANKER_CARD))["Before"] == "two texts cut into tokens, at most 512"
    assert cards.step_words({"step": "new_one"}) == "new one", "a newer daemon knows more steps"


def test_every_step_of_a_card_has_words() -> None:
    for step in (*BeforeStep.__args__, *AfterStep.__args__):  # type: ignore[attr-defined]
        tag = step.__struct_config__.tag
        assert tag in cards.WORDS and cards.step_words({"step": tag}), tag


def test_a_card_is_read_and_written() -> None:
    card, task = cards.read_card(json.dumps(DIGITS_CARD | {"task": "t", "accuracy": 0.98, "name": "digits"}))
    assert card == DIGITS_CARD and task == "t"
    assert json.loads(cards.text(card)) == card
    for text, said in (('{"befor": []}', "Is it before?"), ("[1]", "JSON object"), ("{", "not JSON")):
        with pytest.raises(ValueError, match=said.replace("?", r"\?")):
            cards.read_card(text)


@pytest.mark.parametrize(
    "text", ["cat\ndog\n", '["cat", "dog"]', '{"0": "cat", "1": "dog"}', '{"id2label": {"0": "cat", "1": "dog"}}']
)
def test_names_of_classes_in_every_form(text: str) -> None:
    assert cards.read_labels(text) == ["cat", "dog"]


@pytest.mark.parametrize("text", ["[1, 2]", '{"a": "b"}', "{", '{"id2label": 3}'])
def test_what_holds_no_names_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="one a line"):
        cards.read_labels(text)


def test_errors_have_their_place() -> None:
    found = {field: place_of(field) for field in ("card.labels[2]", "labels", "card.before[0].file", "card.item", "")}
    assert list(found.values()) == ["labels", "labels", "files", "card", "card"]


# --- pipelines ---------------------------------------------------------------------------------------------


def pipeline() -> Pipeline:
    return Pipeline(
        steps=[PipelineStep(**step) for step in PIPELINE["steps"]], outputs=PIPELINE["outputs"]
    )  # fmt: skip


def test_a_pipeline_flows_downwards() -> None:
    assert graph.lines(pipeline()) == {"find": 1, "read": 2, "embed": 2, "judge": 3}
    nodes = {node.name: node for node in graph.nodes(pipeline())}
    assert (nodes["embed"].place, nodes["embed"].places, nodes[graph.OUTPUT].line) == (1, 2, 4)
    flows = {(edge.start, edge.end): edge.values for edge in graph.edges(pipeline())}
    assert flows[graph.INPUT, "find"] == ("photo",) and flows["read", "judge"] == ("digits",)
    assert flows["judge", graph.OUTPUT] == ("verdict",) and flows["read", graph.OUTPUT] == ("digits",)
    assert graph.inputs(pipeline()) == ["photo"] and "find asks detector with photo" in graph.words(pipeline())


def test_a_circle_ends() -> None:
    steps = [
        PipelineStep(name=n, route="r", inputs={"x": i}, outputs={"y": o})
        for n, i, o in (("a", "p", "q"), ("b", "q", "p"))
    ]
    assert graph.lines(Pipeline(steps=steps, outputs={"z": "p"})) == {"a": 1, "b": 1}


def test_the_monitor_tells_each_step() -> None:
    samples = {"detector": RouteSample(time="", route="detector", p50_ms=6.2)}
    parts = step_parts(deployment(spec=DeploymentSpec(pipeline=pipeline())), samples)
    assert [(name, value) for name, value, _ in parts] == [
        ("find", 6.2),
        ("read", None),
        ("embed", None),
        ("judge", None),
    ]


# --- deployments -------------------------------------------------------------------------------------------


def test_what_was_learned_is_told() -> None:
    def sample(rows: int | None, delay: int | None) -> RouteSample:
        return RouteSample(time="", route="a", learned_batch_size=rows, learned_delay_us=delay)

    assert batching_note(sample(8, 120)) == "Learned: leaves at 8 rows, or after 120 µs"
    assert batching_note(sample(32, 2400)) == "Learned: leaves at 32 rows, or after 2.40 ms"
    assert batching_note(sample(1, 0)) == "Learned: leaves at once, with up to 1 row"
    assert batching_note(None) == "" == batching_note(sample(None, None))


def test_the_cache_in_words() -> None:
    on = deployment(spec=DeploymentSpec(model="m", settings={"response_cache": True, "response_cache_mb": 16}))
    sample = RouteSample(time="", route="r", cache_hit_rate=0.625, cache_bytes=12_400_000)
    assert cache_words(on, sample) == "Response cache: 62 % of requests now, 12 MB of at most 16 MiB"
    assert cache_note(sample, on) == "12 MB kept, at most 16 MiB"
    assert cache_words(deployment(), sample) == ""


def test_a_change_is_told_as_what_it_is() -> None:
    def change(**more: object) -> Deployment:
        pending = Pending(**({"model": "m", "version": 2, "state": "starting"} | more))  # type: ignore[arg-type]
        return deployment(pending=pending)

    new = change()
    assert new.pending is not None and sentence(new, new.pending) == "v2 starts beside v1"
    other = change(model="n")
    assert other.pending is not None and sentence(other, other.pending) == "n v2 starts beside m v1"
    same = change(version=1)
    assert (
        same.pending is not None and sentence(same, same.pending) == "The change of settings starts beside what serves"
    )
    failed = change(state="failed", error=Problem(code="bad_model", message="It ends early.", hint="Fetch it again."))
    assert failed.pending is not None and sentence(failed, failed.pending) == "v2 did not start"
    assert explanation(failed, failed.pending) == "It ends early.\nFetch it again.\nr goes on as before."
    described = change(version=1, state="failed", before=DeploymentSpec(model="m", version=1))
    assert (
        described.pending is not None and sentence(described, described.pending) == "The new description did not start"
    )
    assert explanation(described, described.pending) == "r goes on as before; describe the model again to mend it."


def test_devices_of_replicas() -> None:
    replicas = [Replica(id=str(n), state="ready", device=f"cuda:{n % 2}") for n in range(4)]
    assert devices(deployment(replicas=replicas)) == ["cuda:0", "cuda:1"]
    assert device_name("cuda:0,cuda:1") == "GPU 0, 1" and device_name("cuda:1,cpu") == "GPU 1, CPU"
    assert title(deployment(spec=DeploymentSpec(pipeline=pipeline()))) == "r, 4 steps"


def test_settings_are_edited_and_all_else_stays() -> None:
    spec = DeploymentSpec(
        model="m", version=3, device="cuda:0", settings={"threads": 2, "max_batch_size": 16, "instances": 2}
    )
    fields = ds.editable(deployment(spec=spec), RouteSample(time="", route="r", learned_delay_us=120))
    assert [field.otherwise for field in fields] == ["32", "learned, 120 now", "1"]
    assert ds.texts(spec)["replicas"] == "2"
    new = ds.changed(spec, fields, {"max_batch_size": "", "max_queue_delay_us": "500", "replicas": "4"}, cache=True)
    assert new.settings == {"threads": 2, "max_queue_delay_us": 500, "response_cache": True}
    assert (new.replicas, new.model, new.version, new.device) == (4, "m", 3, "cuda:0")


@pytest.mark.parametrize("text", ["x", "0", "-1", "1.5", "99999", "²"])
def test_settings_out_of_range_are_refused_at_their_field(text: str) -> None:
    with pytest.raises(ds.Refused) as refused:
        ds.changed(DeploymentSpec(model="m"), [ds.BATCH], {"max_batch_size": text}, cache=False)
    assert refused.value.key == "max_batch_size" and "1 to 4,096" in str(refused.value)


# --- small things ------------------------------------------------------------------------------------------


def sound(width: int, samples: bytes) -> bytes:
    target = BytesIO()
    with wave.open(target, "wb") as made:
        made.setnchannels(1)
        made.setsampwidth(width)
        made.setframerate(1000)
        made.writeframes(samples)
    return target.getvalue()


def test_a_sound_has_its_peaks() -> None:
    seconds, found = peaks(sound(2, struct.pack("<500h", *[0] * 250, *[16384] * 250)), 10)
    assert seconds == 0.5 and found == [0.0] * 5 + [0.5] * 5
    assert max(peaks(sound(1, bytes([128, 0] * 40)))[1]) == 1.0
    assert peaks(sound(3, b"\0" * 300)) == (0.1, [])
    with pytest.raises(ValueError, match="RIFF"):
        peaks(b"not a sound")


def test_many_numbers_become_lows_and_highs() -> None:
    assert buckets([1, -2, 3, 4], 2) == [(-2, 1), (0.0, 4)]
    assert len(buckets(range(1000), 100)) == 100


def test_a_raw_answer_is_shortened_and_readable() -> None:
    text = pretty(shortened({"outputs": [{"name": "e", "data": list(range(1000))}], "empty": []}))
    assert "… 976 more" in text and '"empty": []' in text and len(text.splitlines()) == 9
    assert json.loads(text)["outputs"][0]["data"][:3] == [0, 1, 2]

"""Tensor models of every kind on the fake daemon: classes of texts, of rows, embeddings, boxes, sound, a pipeline, a
change under way, a response cache. `stage` puts them there."""
# ruff: noqa: E501  the script is a table: one thing a line reads better than one value a line

import json
import math
import random
import time
from typing import Any

from tests.support.fake_daemon import FakeDaemon, deployments, models, stamp

JSON = dict[str, Any]
DIGITS_CARD: JSON = {
    "item": "image", "units": {"image": "0 (paper) to 16 (ink)"},
    "before": [{"step": "decode_image", "mode": "L"}, {"step": "resize", "size": 8, "filter": "box"}, {"step": "normalize", "scale": -0.0627, "mean": -16}, {"step": "layout"}],
    "after": [{"step": "top_k", "input": "probabilities", "k": 0}],
}  # fmt: skip
SENTIMENT_CARD: JSON = {
    "item": "text", "before": [{"step": "tokenize", "max_tokens": 256}], "after": [{"step": "softmax"}, {"step": "top_k", "k": 0}],
}  # fmt: skip
MINILM_CARD: JSON = {
    "item": "text", "before": [{"step": "tokenize", "max_tokens": 256}], "after": [{"step": "mean_pool"}, {"step": "normalize_l2"}],
}  # fmt: skip
RANKER_CARD: JSON = {
    "item": "text", "before": [{"step": "tokenize", "max_tokens": 512, "pairs": True}], "after": [{"step": "sigmoid", "output": "score"}],
}  # fmt: skip
CHURN_CARD: JSON = {
    "item": "row", "units": {"minutes": "a month"},
    "before": [{"step": "columns", "columns": [
        {"name": "age", "mean": 38.6, "scale": 13.7, "missing": 38.6}, {"name": "minutes", "mean": 210.0, "scale": 80.0},
        {"name": "calls"}, {"name": "plan", "type": "category", "categories": ["basic", "plus", "family"], "one_hot": True},
        {"name": "region", "type": "category", "categories": ["north", "south", "east", "west"]}, {"name": "note", "type": "text", "missing": ""},
    ]}],
    "after": [{"step": "top_k", "k": 0}],
}  # fmt: skip
PRICE_CARD: JSON = CHURN_CARD | {"after": [{"step": "regression", "unit": "€"}]}
DETECTOR_CARD: JSON = {
    "item": "image", "before": [{"step": "decode_image"}, {"step": "resize", "size": 640, "mode": "letterbox"}, {"step": "layout"}],
    "after": [{"step": "transpose"}, {"step": "nms"}],
}  # fmt: skip
SPEECH_CARD: JSON = {
    "item": "audio", "units": {"speech": "probability"}, "states": {"state": "stateN"}, "before": [{"step": "decode_audio", "rate": 16000}, {"step": "frame", "size": 576, "hop": 512, "pad_start": 64}],
    "after": [{"step": "select", "input": "output", "index": 0, "output": "speech"}],
}  # fmt: skip


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> JSON:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def classes(*scored: tuple[str, float]) -> list[JSON]:
    return [
        tensor("label", "BYTES", [1, len(scored)], [name for name, _ in scored]),
        tensor("score", "FP32", [1, len(scored)], [score for _, score in scored]),
    ]


def embedding(text: str, size: int = 384) -> list[float]:
    rng = random.Random(text)
    vector = [rng.gauss(0, 1) for _ in range(size)]
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector]


def _deployment(route: str, task: str, card: JSON, capabilities: list[str], **more: Any) -> JSON:
    now = time.time()
    return deployments(now)["digits"] | {
        "route": route, "model": route, "task": task, "card": card, "capabilities": capabilities, "labels": [],
        "spec": {"model": route, "version": 1}, "replicas": [{"id": f"{route}-0", "state": "ready", "device": "cpu", "pid": 5000 + len(route), "memory_bytes": 84_000_000}],
        "inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]}], "memory_bytes": 84_000_000,
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 2]}],
    } | more  # fmt: skip


PIPELINE: JSON = {
    "steps": [
        {"name": "find", "route": "detector", "inputs": {"image": "photo"}, "outputs": {"crops": "crops"}},
        {"name": "read", "route": "digits", "inputs": {"image": "crops"}, "outputs": {"probabilities": "digits"}},
        {"name": "embed", "route": "minilm", "inputs": {"input_ids": "crops"}, "outputs": {"logits": "vector"}},
        {"name": "judge", "route": "churn", "inputs": {"rows": "digits", "more": "vector"}, "outputs": {"p": "verdict"}},
    ],
    "outputs": {"verdict": "verdict", "digits": "digits"},
    "inputs": [{"name": "photo", "datatype": "FP32", "shape": [-1, 3, 640, 640]}],
}  # fmt: skip


def scene() -> dict[str, JSON]:
    """Deployments by route."""
    now = time.time()
    digits = deployments(now)["digits"] | {"card": DIGITS_CARD, "capabilities": ["classify"]}
    digits["spec"] = {"model": "digits", "version": 1, "replicas": 2, "device": "cuda:0,cuda:1", "settings": {"response_cache": True, "max_batch_size": 16}}
    digits["device"] = "cuda:0"
    digits["replicas"] = [
        {"id": f"digits-{n}", "state": "ready", "device": f"cuda:{n}", "pid": 4121 + n, "memory_bytes": 61_000_000} for n in range(2)
    ]  # fmt: skip
    digits["notes"] = ["The axis that batches is the first of image, by its name."]
    sentiment = _deployment("sentiment", "text-classification", SENTIMENT_CARD, ["classify"], labels=["negative", "positive"])
    sentiment["notes"] = ["Requests are served one by one: the first axis of input_ids is fixed at 1. Export the model with a free first axis."]
    detector = _deployment("detector", "object-detection", DETECTOR_CARD, [], labels=["person", "bicycle"])
    detector["inputs"] = [{"name": "images", "datatype": "FP32", "shape": [1, 3, 640, 640]}]
    churn = _deployment("churn", "tabular-classification", CHURN_CARD, ["classify"], labels=["stays", "leaves"])
    churn["spec"] = {"model": "churn", "version": 2}
    churn["pending"] = {
        "model": "churn", "version": 2, "state": "starting", "since": stamp(now - 9), "before": {"model": "churn", "version": 1},
        "replicas": [{"id": "churn-0", "state": "starting", "device": "cpu", "pid": 6001}],
    }  # fmt: skip
    pipeline = _deployment("meter", "", {}, [], spec={"pipeline": PIPELINE}, model="", version=0, engine="ensemble", replicas=[], decision=None)
    pipeline |= {"inputs": PIPELINE["inputs"], "outputs": [{"name": "verdict", "datatype": "FP32", "shape": [-1, 2]}], "device": None, "memory_bytes": None, "precision": None, "runtime": None, "engine_version": None}
    return {
        "digits": digits, "sentiment": sentiment, "detector": detector, "churn": churn, "meter": pipeline,
        "minilm": _deployment("minilm", "embedding", MINILM_CARD, ["embedding", "rerank"]),
        "ranker": _deployment("ranker", "rerank", RANKER_CARD, ["rerank"]),
        "price": _deployment("price", "tabular-regression", PRICE_CARD, []),
        "speech": _deployment("speech", "audio", SPEECH_CARD, []),
    }  # fmt: skip


def stage(fake: FakeDaemon) -> None:
    now = time.time()
    for model in models(now).values():
        if model["name"] == "digits":
            model["versions"][0]["card"] = DIGITS_CARD | {"labels": [str(digit) for digit in range(10)]}
            fake.publish("model", "digits", model)
    minilm = models(now)["digits"] | {"name": "minilm", "task": "embedding", "description": "Sentence embeddings, 384 dimensions."}
    minilm["versions"][0] |= {"card": MINILM_CARD, "files": [{"path": name, "size_bytes": 470_000, "digest": "sha256:" + "a5" * 32} for name in ("model.onnx", "tokenizer.json")]}
    fake.publish("model", "minilm", minilm)
    fake.publish("model", "bare", models(now)["digits"] | {"name": "bare", "task": "", "description": "A model from a file."})
    for route, deployment in scene().items():
        fake.more_metrics[route] = {"learned_batch_size": 8, "learned_delay_us": 120}
        fake.publish("deployment", route, deployment)
        fake.publish("metrics", route, fake.reading(route, now))
    fake.more_metrics["digits"] |= {"cache_hit_rate": 0.62, "cache_bytes": 12_400_000}
    fake.more_metrics["meter"] = {"learned_batch_size": None, "learned_delay_us": None, "batch_size": None, "p50_ms": 9.6}
    for at, route in enumerate(("detector", "minilm", "churn")):
        fake.more_metrics[route] = {"p50_ms": (6.2, 2.9, 0.8)[at]}
    for route in scene():
        fake.publish("metrics", route, fake.reading(route, now))
    timing = "queue;dur=0.062, input;dur=0.410, compute;dur=1.830, output;dur=0.031"
    for route in scene():
        fake.answer_headers[route] = {"Server-Timing": timing}
    fake.answer_headers["meter"]["Server-Timing"] += ", find;dur=6.1, read;dur=0.4, embed;dur=2.7, judge;dur=0.8"
    fake.answer_headers["digits"] |= {"x-cache": "miss"}
    fake.answers |= {
        "digits": lambda body: classes(("3", 0.962), ("8", 0.017), ("9", 0.009), ("5", 0.006), ("2", 0.003), ("1", 0.002), ("0", 0.001)) if "item" in body else [tensor("probabilities", "FP32", [1, 10], [0.004, 0.001, 0.003, 0.962, 0.0, 0.006, 0.0, 0.0, 0.017, 0.007])],
        "sentiment": lambda _: [*classes(("positive", 0.983), ("negative", 0.017)), tensor("tokens", "INT64", [1], [14])],
        "minilm": lambda body: [tensor("embedding", "FP32", [1, 384], embedding(body["item"].decode())), tensor("tokens", "INT64", [1], [9])],
        "ranker": lambda _: [tensor("score", "FP32", [1], [0.871]), tensor("tokens", "INT64", [1], [31])],
        "churn": lambda body: classes(("stays", 0.71), ("leaves", 0.29)) if json.loads(body["item"]) else [],
        "price": lambda _: [tensor("value", "FP32", [1], [412.5])],
        "detector": lambda _: [
            tensor("boxes", "FP32", [1, 3, 4], [30, 40, 120, 190, 140, 60, 300, 200, 0, 0, 0, 0]),
            tensor("label", "BYTES", [1, 3], ["person", "bicycle", ""]), tensor("score", "FP32", [1, 3], [0.94, 0.71, 0.0]),
            tensor("count", "INT64", [1], [2]),
        ],
        "speech": lambda _: [tensor("speech", "FP32", [1, 60], [0.5 + 0.5 * math.sin(at / 6) ** 3 for at in range(60)])],
        "meter": lambda _: [tensor("verdict", "FP32", [1, 2], [0.8, 0.2])],
    }  # fmt: skip

"""Three text models small enough to check by hand: an embedder, a classifier and a cross-encoder, with a tokenizer that
the `tokenizers` library wrote. A text is the words of `WORDS` that are in it, in any case; other words are unknown."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ["[PAD]", "[UNK]", "[SEP]", "cat", "dog", "sun", "rain", "good", "bad", "fine", "awful"]
WIDTH = 6
TABLE = np.random.default_rng(5).normal(size=(len(WORDS), WIDTH)).astype(np.float32)
#: For each word what it says about the classes; nothing about padding.
EVIDENCE = np.zeros((len(WORDS), 2), np.float32)
EVIDENCE[[WORDS.index(word) for word in ("good", "fine")], 1] = 2, 1
EVIDENCE[[WORDS.index(word) for word in ("bad", "awful")], 0] = 2, 1
LABELS = ["negative", "positive"]

EMBEDDER = {
    "item": "text",
    "before": [{"step": "tokenize"}],
    "after": [{"step": "mean_pool"}, {"step": "normalize_l2"}],
}
CLASSIFIER = {
    "item": "text",
    "before": [{"step": "tokenize"}],
    "after": [{"step": "softmax"}, {"step": "top_k", "k": 0}],
}
CROSS_ENCODER = {"item": "text", "before": [{"step": "tokenize", "pairs": True}], "after": [{"step": "sigmoid"}]}


def tokenizer(folder: Path) -> Path:
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="$A", pair="$A:0 [SEP]:0 $B:1", special_tokens=[("[SEP]", WORDS.index("[SEP]"))]
    )
    path = folder / "tokenizer.json"
    made.save(str(path))
    return path


def ids(text: str) -> list[int]:
    return [WORDS.index(word) if word in WORDS else 1 for word in text.lower().split()]


def embedder(folder: Path, card: bool = True) -> Path:
    """``input_ids``, ``attention_mask`` [batch, tokens] → ``states`` [batch, tokens, `WIDTH`]."""
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["states"])]
    return _save(
        folder, nodes, {"table": TABLE}, ["input_ids", "attention_mask"], "states", ["tokens", WIDTH], card and EMBEDDER
    )


def embedding(text: str) -> np.ndarray:
    mean = TABLE[ids(text)].mean(0)
    return mean / np.linalg.norm(mean)


def classifier(folder: Path, card: bool = True) -> Path:
    """``input_ids`` [batch, tokens] → ``logits`` [batch, 2]: the evidence of the words, added."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["evidence"]),
        helper.make_node("ReduceSum", ["evidence", "tokens"], ["logits"], keepdims=0),
    ]
    weights = {"table": EVIDENCE, "tokens": np.array([1])}
    return _save(folder, nodes, weights, ["input_ids"], "logits", [2], card and CLASSIFIER | {"labels": LABELS})


def positive(text: str) -> float:
    """Its probability."""
    negative, positive = EVIDENCE[ids(text)].sum(0).tolist()
    return 1 / (1 + float(np.exp(negative - positive)))


def cross_encoder(folder: Path, card: bool = True) -> Path:
    """A pair → ``logits`` [batch, 1]: the inner product of both texts' summed embeddings."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["states"]),
        helper.make_node("Cast", ["token_type_ids"], ["second"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["attention_mask"], ["there"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["there", "second"], ["first"]),
    ]
    for name in ("first", "second"):
        nodes += [
            helper.make_node("Unsqueeze", [name, "last"], [f"{name}_mask"]),
            helper.make_node("Mul", ["states", f"{name}_mask"], [f"{name}_states"]),
            helper.make_node("ReduceSum", [f"{name}_states", "tokens"], [f"{name}_sum"], keepdims=0),
        ]
    nodes += [
        helper.make_node("Mul", ["first_sum", "second_sum"], ["product"]),
        helper.make_node("ReduceSum", ["product", "tokens"], ["logits"], keepdims=1),
    ]
    weights = {"table": TABLE, "last": np.array([2]), "tokens": np.array([1])}
    names = ["input_ids", "attention_mask", "token_type_ids"]
    return _save(folder, nodes, weights, names, "logits", [1], card and CROSS_ENCODER)


def relevance(query: str, document: str) -> float:
    first = TABLE[[*ids(query), WORDS.index("[SEP]")]].sum(0)
    return 1 / (1 + float(np.exp(-first @ TABLE[ids(document)].sum(0))))


def _save(folder, nodes, weights, inputs, output, shape, card) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer(folder)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", *shape])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    path = folder / "model.onnx"
    onnx.save(model, path)
    if card:
        (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return path

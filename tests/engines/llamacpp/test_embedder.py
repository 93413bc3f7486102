"""Embeddings and reranking: small random models against BERT in numpy, MiniLM and Gemma for the real thing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.device import DEVICE

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")

import llama_cpp

from engines.engine import EngineError
from engines.llamacpp.embedder import Embedder, pack, purpose
from engines.llamacpp.runner import Runner
from engines.llamacpp.settings import Settings
from engines.protocol import Embed, Embedded, Rank, Rejected
from tests.support import bert_reference, tiny_gguf
from tests.support.minilm import HEADS, MiniLM


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    """Open a file for embedding: (path, **arguments of `Embedder`) -> (runner, embedder); closed afterwards."""
    pairs: list[tuple[Runner, Embedder]] = []

    def open_file(path: Path, **arguments: Any) -> tuple[Runner, Embedder]:
        runner = Runner(str(path), DEVICE, 2, Settings())
        arguments = {"context_tokens": 4096, "threads": 2, "on_gpu": False} | arguments
        pairs.append((runner, Embedder(runner, **arguments)))
        return pairs[-1]

    yield open_file
    for runner, embedder in pairs:
        embedder.close()
        runner.close()


@given(st.lists(st.integers(1, 700), max_size=60), st.integers(1, 512), st.integers(1, 8))
def test_every_input_is_in_exactly_one_batch_that_fits(lengths: list[int], tokens: int, sequences: int) -> None:
    batches = pack(lengths, tokens, sequences)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= sequences
        assert sum(lengths[i] for i in batch) <= tokens or len(batch) == 1


def test_short_inputs_share_a_batch() -> None:
    assert pack([3, 500, 4, 5], tokens=512, sequences=8) == [[1, 3, 2, 0]]
    assert pack([1] * 10, tokens=512, sequences=4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_an_encoder_gives_what_the_paper_says(tmp_path: Path, opened: Any, pooling: str) -> None:
    weights = tiny_gguf.bert(tmp_path / "bert.gguf", pooling)
    runner, embedder = opened(tmp_path / "bert.gguf")
    assert purpose(runner) == "embed"
    assert embedder.pooling == pooling
    texts = ["the cat sat on the mat", "who?", "running dogs", "a red cat"]
    tokens = [runner.tokenize(text) for text in texts]
    assert tokens[1] == [tiny_gguf.CLS, 19, 18, tiny_gguf.SEP]
    embeddings = embedder.embed(tokens)
    assert embeddings.shape == (4, tiny_gguf.WIDTH)
    assert embeddings.dtype == np.float32
    expected = [bert_reference.embedding(weights, t, tiny_gguf.HEADS, pooling) for t in tokens]
    # llama.cpp reads GELU from a table of half precision.
    np.testing.assert_allclose(embeddings, expected, atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)


def test_a_pooling_can_be_chosen_over_the_files(tmp_path: Path, opened: Any) -> None:
    weights = tiny_gguf.bert(tmp_path / "bert.gguf", "cls")
    _, embedder = opened(tmp_path / "bert.gguf", pooling="mean")
    tokens = [2, 5, 6, 3]
    np.testing.assert_allclose(
        embedder.embed([tokens])[0], bert_reference.embedding(weights, tokens, tiny_gguf.HEADS, "mean"), atol=2e-3
    )


def test_an_input_longer_than_a_step_is_not_cut(tmp_path: Path, opened: Any) -> None:
    weights = tiny_gguf.bert(tmp_path / "bert.gguf")
    _, embedder = opened(tmp_path / "bert.gguf")
    short, long = [2, 5, 6, 3], [2, *np.random.default_rng(1).integers(5, 20, 590).tolist(), 3]
    embeddings = embedder.embed([short, long, short])
    for tokens, embedding in zip([short, long, short], embeddings, strict=True):
        np.testing.assert_allclose(embedding, bert_reference.embedding(weights, tokens, tiny_gguf.HEADS), atol=3e-3)


def test_a_reranker_scores_pairs_with_its_head(tmp_path: Path, opened: Any) -> None:
    weights = tiny_gguf.bert(tmp_path / "rank.gguf", "rank")
    runner, embedder = opened(tmp_path / "rank.gguf")
    assert purpose(runner) == "rank"
    pairs = embedder.pairs("who sat", ["the cat", "the dog", ""])
    assert pairs[0] == [tiny_gguf.CLS, 19, 8, tiny_gguf.SEP, 5, 6, tiny_gguf.SEP]
    expected = [bert_reference.score(weights, pair, tiny_gguf.HEADS) for pair in pairs]
    np.testing.assert_allclose(embedder.rank("who sat", ["the cat", "the dog", ""]), expected, atol=5e-3)


def test_special_names_in_a_document_are_text(tmp_path: Path, opened: Any) -> None:
    tiny_gguf.bert(tmp_path / "rank.gguf", "rank")
    _, embedder = opened(tmp_path / "rank.gguf")
    assert embedder.pairs("a", ["[SEP]"])[0].count(tiny_gguf.SEP) == 2


def test_requests_are_answered_together_and_fail_alone(tmp_path: Path, opened: Any) -> None:
    weights = tiny_gguf.bert(tmp_path / "bert.gguf")
    _, embedder = opened(tmp_path / "bert.gguf", context_tokens=16)
    answers = embedder.answer(
        [
            Embed(1, ["the cat", [2, 5, 3]]),
            Embed(2, ["a cat", "cat " * 15]),
            Rank(3, "who", ["the cat"]),
            Embed(4, [""]),
            Embed(5, [[2, 99, 3]]),
            Embed(6, ["a dog"]),
        ]
    )
    (first, rows), *failed, (last, last_rows) = answers
    assert isinstance(first, Embedded)
    assert (first.id, first.tokens, first.dimensions, rows.shape) == (1, [4, 3], 32, (2, 32))
    np.testing.assert_allclose(rows[1], bert_reference.embedding(weights, [2, 5, 3], tiny_gguf.HEADS), atol=2e-3)
    assert isinstance(last, Embedded)
    assert last.id == 6
    np.testing.assert_allclose(
        last_rows[0], bert_reference.embedding(weights, [2, 14, 7, 3], tiny_gguf.HEADS), atol=2e-3
    )
    rejections = [answer for answer, _ in failed]
    assert all(isinstance(answer, Rejected) for answer in rejections)
    assert [(r.id, r.code, r.field) for r in rejections] == [
        (2, "context_exceeded", "input[1]"),
        (3, "invalid_input", "model"),
        (4, "invalid_input", "input[0]"),
        (5, "invalid_input", "input[0]"),
    ]
    assert "17 tokens; the context is 16" in rejections[0].message


def test_a_reranker_gives_no_embeddings(tmp_path: Path, opened: Any) -> None:
    tiny_gguf.bert(tmp_path / "rank.gguf", "rank")
    _, embedder = opened(tmp_path / "rank.gguf", context_tokens=8)
    (refused, _), (scored, scores), (long, _) = embedder.answer(
        [Embed(1, ["the cat"]), Rank(2, "who", ["the cat", "a dog"]), Rank(3, "who", ["a", "the cat sat on a mat"])]
    )
    assert isinstance(refused, Rejected)
    assert isinstance(scored, Embedded)
    assert scores.shape == (2, 1)
    assert isinstance(long, Rejected)
    assert (long.code, long.field) == ("context_exceeded", "documents[1]")


def test_an_unknown_pooling_is_refused(tmp_path: Path, opened: Any) -> None:
    tiny_gguf.bert(tmp_path / "bert.gguf")
    with pytest.raises(EngineError) as refused:
        opened(tmp_path / "bert.gguf", pooling="median")
    assert refused.value.code == "bad_setting"


def test_numbers_that_are_none_are_an_error(tmp_path: Path, opened: Any) -> None:
    weights = tiny_gguf.bert(tmp_path / "bert.gguf")
    weights["token_embd_norm.bias"][:] = np.nan
    tiny_gguf.write_bert(tmp_path / "nan.gguf", weights, tiny_gguf.SPECIAL + tiny_gguf.WORDS, "mean", tiny_gguf.HEADS)
    _, embedder = opened(tmp_path / "nan.gguf")
    with pytest.raises(EngineError, match="not a number"):
        embedder.embed([[2, 5, 3]])


# --- real models ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_minilm_understands(minilm: MiniLM, opened: Any) -> None:
    runner, embedder = opened(minilm.path)
    assert purpose(runner) == "embed"
    assert (embedder.width, embedder.context_tokens) == (384, 512)
    texts = ["A man is eating food.", "Someone has a meal.", "The stock market fell sharply.", "Shares lost value."]
    tokens = [runner.tokenize(text) for text in texts]
    meal, eaten, market, shares = embedder.embed(tokens)
    assert cosine(meal, eaten) > 0.5
    assert cosine(meal, market) < 0.3
    assert cosine(market, shares) > 0.5
    assert cosine(eaten, shares) < 0.3
    for given_tokens, embedding in zip(tokens, [meal, eaten, market, shares], strict=True):
        assert cosine(embedding, bert_reference.embedding(minilm.weights, given_tokens, HEADS)) > 0.9999


@pytest.mark.slow
def test_minilm_cuts_words_as_bert_does(minilm: MiniLM, opened: Any) -> None:
    runner, _ = opened(minilm.path)
    # The example of BERT's own README.
    pieces = [minilm.vocabulary[token] for token in runner.tokenize("John Johanson's unaffable house")]
    assert pieces == ["[CLS]", "john", "johan", "##son", "'", "s", "una", "##ffa", "##ble", "house", "[SEP]"]


@pytest.fixture(scope="module")
def gemma(gguf_path: Path) -> Iterator[Runner]:
    runner = Runner(str(gguf_path), DEVICE, 2, Settings())
    yield runner
    runner.close()


@pytest.fixture
def gemma_embedder(gemma: Runner) -> Iterator[Embedder]:
    embedder = Embedder(gemma, context_tokens=2048, threads=2, on_gpu=False)
    yield embedder
    embedder.close()


def native_mean(runner: Runner, tokens: list[int]) -> np.ndarray:
    """One input, pooled by llama.cpp itself in one piece: float32 [width], of length 1."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = 2
    params.embeddings = True
    params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_MEAN
    context = llama_cpp.llama_init_from_model(runner.model, params)
    try:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens))) == 0
        pooled = np.ctypeslib.as_array(llama_cpp.llama_get_embeddings_seq(context, 0), (640,)).copy()
    finally:
        llama_cpp.llama_free(context)
    return pooled / np.linalg.norm(pooled)


@pytest.mark.slow
def test_a_language_model_embeds_by_the_mean(gemma: Runner, gemma_embedder: Embedder) -> None:
    assert purpose(gemma) == "generate"
    assert gemma_embedder.pooling == "mean"
    texts = ["The cat sat on the mat.", "1, 2, 3", "Words and words. " * 90]
    tokens = [gemma.tokenize(text) for text in texts]
    assert len(tokens[2]) > 256, "longer than one piece"
    together = gemma_embedder.embed(tokens)
    for given_tokens, embedding in zip(tokens, together, strict=True):
        assert cosine(embedding, native_mean(gemma, given_tokens)) > 0.9999
        assert cosine(embedding, gemma_embedder.embed([given_tokens])[0]) > 0.9999


@pytest.mark.slow
def test_the_last_token_speaks_for_a_long_input(gemma: Runner) -> None:
    embedder = Embedder(gemma, context_tokens=2048, threads=2, on_gpu=False, pooling="last")
    try:
        tokens = gemma.tokenize("Words and words. " * 90)
        whole = embedder.embed([tokens, tokens[:20], tokens[:-1]])
        assert cosine(whole[0], embedder.embed([tokens])[0]) > 0.9999
        assert cosine(whole[0], whole[2]) < 0.999
    finally:
        embedder.close()

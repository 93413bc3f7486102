"""Texts, against the tokenizers library used by itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from engines.card import TokenizeText
from engines.engine import EngineError
from engines.steps.text import SHORT, TOKEN_CHARACTERS, TextTokenizer, length_groups

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "mat", "##s", "a", "dog"]
ALL = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}


@pytest.fixture
def tokenizer():
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


@pytest.fixture
def run(tokenizer, tmp_path):
    def run(texts, prepare=lambda tokenizer: None, wanted=ALL, **step):
        prepare(tokenizer)
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        made = TextTokenizer(TokenizeText(**step), tmp_path, wanted)
        encodings = made(texts)
        return made.arrays(encodings), [len(encoding.ids) for encoding in encodings]

    return run


TEXTS = ["The cat sat on the mat", "dogs", "", "a zebra"]


def test_a_batch_is_padded_to_its_longest(run, tokenizer):
    arrays, counts = run(TEXTS)
    tokenizer.enable_padding(pad_id=0)
    expected = tokenizer.encode_batch(TEXTS)
    assert arrays["input_ids"].tolist() == [encoding.ids for encoding in expected]
    assert arrays["attention_mask"].tolist() == [encoding.attention_mask for encoding in expected]
    assert arrays["token_type_ids"].tolist() == [encoding.type_ids for encoding in expected]
    assert arrays["position_ids"][1].tolist() == [0, 1, 2, 3, 0, 0, 0, 0]
    assert counts == [8, 4, 2, 4] and all(array.dtype == np.int64 for array in arrays.values())


def test_what_nobody_takes_is_not_made(run):
    arrays, _ = run(TEXTS, wanted={"input_ids"})
    assert list(arrays) == ["input_ids"]


def test_a_pair_has_types_and_its_longer_half_is_cut(run, tokenizer):
    pairs = [("the cat", "a dog sat on the mat"), ("the cat", "dog")]
    arrays, counts = run(pairs, max_tokens=8)
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(pad_id=0)
    expected = tokenizer.encode_batch(pairs)
    assert arrays["input_ids"].tolist() == [encoding.ids for encoding in expected]
    assert arrays["token_type_ids"].tolist() == [encoding.type_ids for encoding in expected]
    assert counts == [8, 6]


def test_names_and_a_prefix_are_the_cards(run, tokenizer):
    arrays, _ = run(["sat"], wanted={"tokens_in", "there"}, ids="tokens_in", mask="there", prefix="the cat ")
    assert arrays["tokens_in"].tolist() == [tokenizer.encode("the cat sat").ids]
    assert list(arrays) == ["tokens_in", "there"]


def test_the_files_own_padding_and_limit_count_where_the_card_says_nothing(run):
    def prepare(tokenizer):
        tokenizer.enable_padding(direction="left", pad_id=11, length=64)
        tokenizer.enable_truncation(5)

    arrays, counts = run(["the cat sat on the mat", "dog"], prepare)
    assert arrays["input_ids"].tolist() == [[2, 4, 5, 6, 3], [11, 11, 2, 11, 3]]
    assert arrays["attention_mask"].tolist() == [[1] * 5, [0, 0, 1, 1, 1]]
    assert arrays["position_ids"].tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]]
    assert counts == [5, 3]


def test_lengths_may_be_rounded_up_or_fixed(run):
    assert run(TEXTS, pad_multiple=16)[0]["input_ids"].shape == (4, 16)
    assert run(TEXTS, pad_to_max=True, max_tokens=20)[0]["input_ids"].shape == (4, 20)
    assert run([""], special_tokens=False)[0]["attention_mask"].tolist() == [[0]]


def test_a_missing_or_broken_tokenizer_is_said_so(tmp_path):
    with pytest.raises(EngineError, match=r"tokenizer\.json is not beside the model") as caught:
        TextTokenizer(TokenizeText(), tmp_path, ALL)
    assert caught.value.code == "bad_setting"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(EngineError, match=r"tokenizer\.json is not a tokenizer"):
        TextTokenizer(TokenizeText(), tmp_path, ALL)


def test_one_pair_is_a_list_of_two_texts(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    made = TextTokenizer(TokenizeText(pairs=True), tmp_path, ALL)
    assert made.pair('["a", "b"]') == ("a", "b")
    for wrong in ('["a"]', '["a", 1]', "a b", '{"a": "b"}'):
        with pytest.raises(ValueError, match="list of two texts"):
            made.pair(wrong)


def test_texts_of_like_length_are_padded_together():
    assert length_groups([3, 200, 8, 120, 20, 90], pad=True) == [[1, 3], [5], [4, 2, 0]]
    assert length_groups([32, 1, 0], pad=True) == [[0, 1, 2]]
    assert length_groups([3, 5, 3, 0, 1], pad=False) == [[1], [0, 2], [4, 3]]


@given(st.lists(st.integers(0, 600), min_size=1, max_size=60))
def test_less_than_half_of_what_is_computed_is_padding(counts):
    groups = length_groups(counts, pad=True)
    assert sorted(index for group in groups for index in group) == list(range(len(counts)))
    for group in groups:
        longest = max(counts[index] for index in group)
        assert longest <= SHORT or all(2 * counts[index] >= longest - 1 for index in group)
    assert len(groups) <= 6


@pytest.mark.parametrize("direction", ["left", "right"])
def test_of_a_very_long_text_only_what_can_matter_is_read(run, tokenizer, monkeypatch, direction):
    text = "the cat sat on the mat " * 2000
    read = []
    encode = TextTokenizer._encode
    monkeypatch.setattr(
        TextTokenizer, "_encode", lambda self, texts: read.extend(len(one) for one in texts) or encode(self, texts)
    )

    def prepare(tokenizer):
        tokenizer.enable_truncation(16, direction=direction)

    arrays, counts = run([text, "the cat"], prepare)
    assert read == [16 * TOKEN_CHARACTERS, 7]
    assert arrays["input_ids"][0].tolist() == tokenizer.encode(text).ids
    assert counts == [16, 4]


@pytest.mark.parametrize("truncate", [True, False])
def test_a_long_text_with_few_tokens_is_read_to_its_end(run, tokenizer, truncate):
    text = "the cat" + " " * 5000 + "sat"
    arrays, _ = run([text], max_tokens=16, truncate=truncate)
    assert arrays["input_ids"].tolist() == [tokenizer.encode(text).ids]


def test_a_long_pair_is_cut_as_the_tokenizer_cuts_it(run, tokenizer):
    pair = ("the cat", "a dog sat on the mat " * 2000)
    arrays, _ = run([pair], max_tokens=16)
    tokenizer.enable_truncation(16)
    assert arrays["input_ids"].tolist() == [tokenizer.encode(*pair).ids]


def test_a_very_long_text_is_refused_where_texts_are_not_cut(run):
    _, counts = run(["the cat sat on the mat " * 2000], max_tokens=16, truncate=False)
    assert counts[0] > 16

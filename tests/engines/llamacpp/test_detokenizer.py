"""However the bytes of an answer are cut into tokens, the text is the same."""

from hypothesis import given
from hypothesis import strategies as st

from engines.llamacpp.detokenizer import Detokenizer


def stream(data: bytes, cuts: list[int], stop: list[str]) -> tuple[list[str], bool]:
    """Feed ``data`` cut at ``cuts``; the texts that came out, and whether a stop string ended them."""
    detokenizer = Detokenizer(stop)
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    texts, start = [], 0
    for end in ends:
        texts.append(detokenizer.feed(data[start:end]))
        start = end
        if detokenizer.stopped:
            return texts, True
    return [*texts, detokenizer.flush()], False


def first_complete_stop(text: str, stop: list[str]) -> int:
    """Where the stop string that is complete first begins; -1 where there is none. Written to be obvious."""
    for end in range(1, len(text) + 1):
        starts = [end - len(s) for s in stop if text[:end].endswith(s)]
        if starts:
            return min(starts)
    return -1


cuts = st.lists(st.integers(0, 60), max_size=20)
few_letters = st.text("ab€", max_size=20)


@given(st.text(max_size=20), cuts)
def test_characters_are_never_cut(text: str, cuts: list[int]) -> None:
    texts, _ = stream(text.encode(), cuts, [])
    assert "".join(texts) == text
    assert all("\ufffd" not in part for part in texts) or "\ufffd" in text


@given(few_letters, cuts, st.lists(st.text("ab€", min_size=1, max_size=4), max_size=3))
def test_stop_strings_do_not_depend_on_the_cuts(text: str, cuts: list[int], stop: list[str]) -> None:
    texts, stopped = stream(text.encode(), cuts, stop)
    begin = first_complete_stop(text, stop)
    assert stopped == (begin >= 0)
    assert "".join(texts) == (text[:begin] if begin >= 0 else text)


def test_text_that_may_become_a_stop_string_is_held_back() -> None:
    detokenizer = Detokenizer(["\nUser:"])
    assert detokenizer.feed(b"Hi\nUs") == "Hi"
    assert detokenizer.feed(b"age") == "\nUsage"
    assert not detokenizer.stopped


def test_held_text_comes_out_when_the_answer_ends_otherwise() -> None:
    detokenizer = Detokenizer(["<|im_end|>"])
    assert detokenizer.feed(b"done <|im") == "done "
    assert detokenizer.flush() == "<|im"


def test_half_a_character_at_the_end_is_dropped() -> None:
    detokenizer = Detokenizer([])
    assert detokenizer.feed("5 €".encode()[:-1]) == "5 "
    assert detokenizer.flush() == ""


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert Detokenizer([]).feed(b"a\xffb") == "a\ufffdb"


def test_stops_do_not_count_before_they_may() -> None:
    detokenizer = Detokenizer(["b"])
    assert detokenizer.feed(b"ab", may_stop=False) == "ab"
    assert detokenizer.feed(b"ab") == "a"
    assert detokenizer.stopped

"""Guessing ahead."""

from hypothesis import given
from hypothesis import strategies as st

from engines.llamacpp.drafter import NGramDrafter, Pace


def slow(tokens: list[int], n: int, limit: int) -> list[int]:
    """What followed the last occurrence of the last ``n`` tokens, found by looking everywhere."""
    starts = [i for i in range(n, len(tokens)) if tokens[i - n : i] == tokens[-n:]]
    return tokens[starts[-1] : starts[-1] + limit] if starts and len(tokens) >= n else []


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 4), st.integers(0, 8))
def test_it_finds_what_followed_before_however_the_tokens_grow(tokens: list[int], n: int, limit: int) -> None:
    drafter = NGramDrafter(n)
    for end in range(len(tokens) + 1):
        assert drafter.draft(tokens[:end], limit) == slow(tokens[:end], n, limit)


def test_text_that_never_repeats_is_not_guessed() -> None:
    assert NGramDrafter().draft(list(range(100)), 8) == []


def test_a_copy_is_guessed_ever_further() -> None:
    pace = Pace(8)
    for _ in range(4):
        limit = pace.limit()
        pace.observe(limit, limit)
    assert pace.limit() == 8


@given(st.integers(1, 16), st.integers(10, 60))
def test_misses_become_rare(most: int, steps: int) -> None:
    pace = Pace(most)
    guesses = 0
    for _ in range(steps):
        limit = pace.limit()
        guesses += bool(limit)
        pace.observe(limit, 0)
    assert guesses <= 6


@given(st.lists(st.integers(0, 8), max_size=50))
def test_the_limit_is_kept(accepted: list[int]) -> None:
    pace = Pace(8)
    for count in accepted:
        limit = pace.limit()
        assert 0 <= limit <= 8
        pace.observe(limit, min(count, limit))

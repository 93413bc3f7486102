"""Which slot a request gets, and what it need not compute again."""

from typing import Any

import pytest

from engines.llamacpp.kv_slots import Copy, Keep, KvSlots, Move, Restore, Save, Taken

TOKEN_BYTES = 10
A, B, C = ([start, *range(start, start + 99)] for start in (1000, 2000, 3000))


def serve(slots: KvSlots, tokens: list[int], **options: Any) -> int:
    """A request that ran to its end; the slot that it had."""
    taken = slots.take(tokens, **options)
    perform(slots, taken)
    slots.grow(taken.slot, tokens[taken.count :])
    slots.release(taken.slot)
    slots.check()
    return taken.slot


def start(slots: KvSlots, tokens: list[int], **options: Any) -> int:
    """A request that runs; its slot."""
    taken = slots.take(tokens, **options)
    perform(slots, taken)
    slots.grow(taken.slot, tokens[taken.count :])
    return taken.slot


def perform(slots: KvSlots, taken: Taken) -> None:
    for action in taken.actions:
        if isinstance(action, Save):
            slots.saved(action.key, len({p.key: p.tokens for p in slots.prefixes()}[action.key]) * TOKEN_BYTES)
    slots.restored()


def keys(slots: KvSlots) -> list[int]:
    return [prefix.key for prefix in slots.prefixes()]


# --- without a store, unified -------------------------------------------------------------------------------


def test_empty_slots_are_taken_in_order() -> None:
    slots = KvSlots(3)
    assert [slots.take([i]).slot for i in range(3)] == [0, 1, 2]
    assert not slots.free


def test_the_next_turn_continues_in_its_slot() -> None:
    slots = KvSlots(4)
    for first in (10, 20, 30):
        serve(slots, [first, 1, 2, 3])
    assert slots.take([20, 1, 2, 3, 4, 5]) == Taken(1, 4, [Keep(1, 4)])


def test_the_same_prompt_again_computes_its_last_token() -> None:
    slots = KvSlots(2)
    serve(slots, [1, 2, 3])
    assert slots.take([1, 2, 3]) == Taken(0, 2, [Keep(0, 2)])


def test_a_short_shared_beginning_does_not_destroy_a_conversation() -> None:
    slots = KvSlots(2)
    serve(slots, [1, *range(100)])
    assert slots.take([1, 500, 501]) == Taken(1, 1, [Copy(0, 1, 1)])


def test_another_end_of_the_same_length_does_not_destroy_a_conversation() -> None:
    slots = KvSlots(2)
    serve(slots, A + B)
    assert slots.take(A + C) == Taken(1, 100, [Copy(0, 1, 100)])


def test_a_short_end_that_changed_is_overwritten() -> None:
    slots = KvSlots(2)
    serve(slots, [*A, 1, 2, 3])
    assert slots.take([*A, 4, 5]) == Taken(0, 100, [Keep(0, 100)])


def test_a_prefix_is_shared_from_a_busy_slot() -> None:
    slots = KvSlots(2)
    start(slots, [1, 2, 3, 4])
    assert slots.take([1, 2, 3, 9]) == Taken(1, 3, [Copy(0, 1, 3)])


def test_only_computed_tokens_are_shared() -> None:
    slots = KvSlots(2)
    slot = slots.take([1, 2, 3, 4]).slot
    slots.grow(slot, [1, 2])
    assert slots.take([1, 2, 3, 9]).count == 2


def test_without_a_match_the_least_recently_used_slot_goes() -> None:
    slots = KvSlots(2)
    serve(slots, [10, 11])
    serve(slots, [20, 21])
    serve(slots, [10, 11, 12])
    assert slots.take([30, 31]) == Taken(1, 0, [Keep(1, 0)])


def test_a_request_may_decline_reuse() -> None:
    slots = KvSlots(2)
    serve(slots, [1, 2, 3])
    assert slots.take([1, 2, 3, 4], reuse=False) == Taken(1, 0, [Keep(1, 0)])


def test_adapters_share_nothing() -> None:
    slots = KvSlots(2)
    serve(slots, [1, 2, 3])
    assert slots.reusable([1, 2, 3, 4], group="polite") == 0
    assert serve(slots, [1, 2, 3, 4], group="polite") == 1
    assert slots.take([1, 2, 3, 4, 5], group="polite") == Taken(1, 4, [Keep(1, 4)])


@pytest.mark.parametrize(("span", "count"), [((2, 4), 2), ((2, 3), 5), ((5, 3), 5), ((4, 10), 4)])
def test_reuse_ends_before_an_image_or_after_it(span: tuple[int, int], count: int) -> None:
    slots = KvSlots(1)
    serve(slots, [1, 2, -3, -3, -3, 6, 7, 8])
    tokens = [1, 2, -3, -3, -3, *range(100, 110)]
    assert slots.reusable(tokens, spans=[span]) == count
    assert slots.take(tokens, spans=[span]).count == count


def test_forgotten_content_is_not_matched() -> None:
    slots = KvSlots(1)
    slot = start(slots, [1, 2, 3])
    assert slots.release(slot, keep=False) == Keep(0, 0)
    assert slots.take([1, 2, 3]).count == 0


def test_eviction_takes_the_oldest_idle_content() -> None:
    slots = KvSlots(3)
    serve(slots, [10, 11])
    serve(slots, [20, 21, 22])
    slots.take([30])
    assert slots.idle_tokens == 5
    assert slots.evict() == [Keep(0, 0)]
    assert slots.evict() == [Keep(1, 0)]
    assert slots.evict() == []


# --- a model whose state cannot be cut ----------------------------------------------------------------------


def test_a_state_that_cannot_be_cut_is_continued_where_it_ends() -> None:
    slots = KvSlots(2, can_cut=False)
    serve(slots, [1, 2, 3])
    assert slots.take([1, 2, 3, 4]) == Taken(0, 3, [Keep(0, 3)])


@pytest.mark.parametrize("tokens", [[1, 2, 3], [1, 2, 9, 9]])
def test_a_state_that_cannot_be_cut_is_of_no_use_for_less(tokens: list[int]) -> None:
    slots = KvSlots(1, can_cut=False)
    serve(slots, [1, 2, 3])
    assert slots.take(tokens) == Taken(0, 0, [Keep(0, 0)])


def test_a_longer_state_does_not_replace_one_that_cannot_be_cut() -> None:
    slots = KvSlots(1, can_cut=False, store_bytes=100_000)
    serve(slots, A)
    serve(slots, C)  # saves A
    serve(slots, [*A, *B])  # restores it
    taken = slots.take([1, 2])
    assert [type(a) for a in taken.actions] == [Save, Keep]
    perform(slots, taken)
    assert [len(p.tokens) for p in slots.prefixes()] == [100, 100, 200]
    assert slots.reusable([*A, 5]) == 100


# --- saving and restoring -----------------------------------------------------------------------------------


def store(count: int = 1, **options: Any) -> KvSlots:
    return KvSlots(count, 1000 * count, store_bytes=3000, **options)


def test_what_nobody_else_holds_is_saved_before_its_slot_is_taken() -> None:
    slots = store()
    serve(slots, A)
    assert slots.take(B) == Taken(0, 0, [Save(0, 1), Keep(0, 0)])


def test_what_is_saved_is_restored_and_cut() -> None:
    slots = store()
    serve(slots, A)
    serve(slots, B)
    assert slots.take([*A[:50], 7]).actions == [Save(0, 2), Restore(1, 0, 50)]


def test_a_restored_state_is_not_saved_again() -> None:
    slots = store()
    for tokens in (A, B, [*A, 1, 2], B, A, B):
        serve(slots, tokens)
    assert len(keys(slots)) == 2


def test_short_content_is_not_saved() -> None:
    slots = store()
    serve(slots, A[:20])
    assert slots.take(B) == Taken(0, 0, [Keep(0, 0)])


def test_what_another_slot_holds_is_not_saved() -> None:
    slots = store(3)
    for slot in [start(slots, A), start(slots, [*A, 1]), start(slots, B)]:
        slots.release(slot)
    assert slots.take(C) == Taken(0, 0, [Keep(0, 0)])


def test_few_more_tokens_are_no_reason_to_restore() -> None:
    slots = store(2)
    serve(slots, A)
    for tokens in (B, C):
        start(slots, tokens)  # A is saved, and overwritten
    slots.release(1)
    serve(slots, [*A[:80], 5])
    assert slots.take([*A, 6]) == Taken(1, 80, [Keep(1, 80)])


def test_a_longer_state_supersedes_the_shorter() -> None:
    slots = store()
    serve(slots, A)
    serve(slots, B)
    serve(slots, [*A, *C])
    taken = slots.take(B)
    assert taken.actions[0] == Save(0, 3)
    assert slots.saved(3, 2000) == [1]
    assert keys(slots) == [3, 2]  # B was restored after the last was saved
    assert slots.cache_bytes == 3000


def test_the_least_recently_used_state_goes_when_the_store_is_full() -> None:
    slots = store()
    for first in range(4):
        serve(slots, [first, *A])
    serve(slots, [0, *A])
    taken = slots.take(B)  # 0 was restored last: it holds 1, 2 and 3, or 0 and two of them
    assert slots.cache_bytes <= 3000
    perform(slots, taken)
    assert sorted(p.tokens[0] for p in slots.prefixes()) == [0, 3]


def test_what_an_action_is_yet_to_restore_is_not_superseded() -> None:
    slots = KvSlots(3, 3000, store_bytes=10_000)
    serve(slots, A)
    assert slots.evict() == [Save(0, 3), Keep(0, 0)]
    slots.saved(3, 1000)
    serve(slots, [*A, *B])
    start(slots, C)
    assert slots.evict() == [Save(0, 4), Keep(0, 0)]
    assert slots.take([*A, 1]).actions == [Restore(3, 0, 100)]
    assert slots.saved(4, 2000) == []
    slots.restored()
    assert slots.saved(4, 2000) == [3]
    slots.check()


def test_a_state_that_could_not_be_saved_is_forgotten() -> None:
    slots = store()
    serve(slots, A)
    slots.take(B)
    assert slots.saved(1, 0) == [1]
    assert not keys(slots)
    slots.check()


def test_a_state_that_is_larger_than_the_store_displaces_nothing() -> None:
    slots = store()
    for tokens in (A, B):
        serve(slots, tokens)
    slots.take(C)
    assert slots.saved(2, 3001) == [2]
    assert keys(slots) == [1]


def test_a_state_that_is_larger_than_the_store_is_not_saved_again() -> None:
    slots = KvSlots(1, 1000, store_bytes=1500)
    serve(slots, A)
    serve(slots, [*B, *C])  # A: 1,000 bytes, so 2,000 is known to be too much
    assert slots.take(A[::-1]) == Taken(0, 0, [Keep(0, 0)])


def test_restoring_makes_room_for_the_whole_state() -> None:
    slots = KvSlots(3, 250, store_bytes=10_000)
    serve(slots, [*A, *A])
    slots.evict()
    slots.saved(3, 2000)
    serve(slots, B)
    assert slots.take([*A, 5]).actions == [Save(0, 4), Keep(0, 0), Restore(3, 1, 100)]


def test_what_does_not_fit_beside_running_requests_is_not_restored() -> None:
    slots = KvSlots(3, 250, store_bytes=10_000)
    serve(slots, [*A, *A])
    slots.evict()
    slots.saved(3, 2000)
    start(slots, B)
    assert slots.take([*A, 5]) == Taken(1, 0, [Keep(1, 0)])


def test_unloading_saves_what_only_slots_hold() -> None:
    slots = store(4)
    busy = start(slots, A)
    for tokens in (B, [*B[:90], 1], [5, 6]):
        slots.release(start(slots, tokens))
    assert slots.save_all() == [Save(1, 4), Save(busy, 5)]


def test_the_next_load_adopts_what_fits() -> None:
    slots = store()
    assert slots.adopt("", A, 1000) == 1
    assert slots.adopt("polite", B, 1500) == 2
    assert slots.adopt("", [*A, *B], 600) is None  # beyond the bound
    assert slots.adopt("", [7] * 1001, 10) is None  # longer than the memory
    assert keys(slots) == [2, 1]  # A was used last
    assert slots.take([*B, 1], group="polite").actions == [Restore(2, 0, 100)]


# --- sliding windows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "count"), [(100, 100), (99, 99), (98, 96), (70, 64), (31, 0)])
def test_a_state_that_is_longer_than_the_window_is_cut_at_checkpoints(end: int, count: int) -> None:
    slots = store(window=32)
    serve(slots, A)
    slots.evict()
    slots.saved(1, 1000)
    assert slots.reusable([*A[:end], 5, 6]) == count
    assert slots.take([*A[:end], 5, 6]).count == count


def test_a_state_that_is_shorter_than_the_window_is_cut_anywhere() -> None:
    slots = store(window=100)
    serve(slots, A)
    slots.evict()
    slots.saved(1, 1000)
    assert slots.take([*A[:70], 5]).count == 70


def test_a_slot_is_cut_anywhere() -> None:
    slots = store(window=32)
    serve(slots, A)
    assert slots.take([*A[:90], 5]) == Taken(0, 90, [Keep(0, 90)])


def test_making_checkpoints_costs_what_the_slot_held() -> None:
    slots = store(window=32)
    serve(slots, A)
    assert slots.take([*A[:50], 5]) == Taken(0, 32, [Save(0, 1), Restore(1, 0, 32)])


def test_a_checkpoint_inside_an_image_is_of_no_use() -> None:
    slots = store(window=32)
    serve(slots, A)
    slots.evict()
    slots.saved(1, 1000)
    assert slots.reusable([*A[:70], 5], spans=[(60, 10)]) == 0
    assert slots.reusable([*A[:70], 5], spans=[(50, 10)]) == 64


# --- one stream a slot --------------------------------------------------------------------------------------


def test_running_slots_are_neighbours() -> None:
    slots = store(4, streams=True)
    for tokens in (A, B, C):
        start(slots, tokens)
    slots.release(1)
    slots.release(2)
    assert slots.take([*C, 5]) == Taken(1, 100, [Save(1, 4), Copy(2, 1, 100)])


def test_a_conversation_continues_in_its_slot_where_that_makes_no_gap() -> None:
    slots = store(4, streams=True)
    for slot in [start(slots, tokens) for tokens in (A, B, C)]:
        slots.release(slot)
    assert slots.take([*C, 5]) == Taken(2, 100, [Keep(2, 100)])
    assert slots.take([*B, 5]) == Taken(1, 100, [Keep(1, 100)])


def test_nothing_is_restored_over_what_is_yet_to_be_copied() -> None:
    slots = store(3, streams=True)
    serve(slots, C)
    slots.evict()
    slots.saved(3, 1000)
    for tokens in (A, B, B[::-1]):
        start(slots, tokens)
    slots.release(0)
    slots.release(1, keep=False)
    assert slots.take([*A, 1]) == Taken(1, 100, [Copy(0, 1, 100)])
    assert slots.take([*C, 1]) == Taken(0, 0, [Keep(0, 0)])
    slots.release(0)
    slots.restored()
    slots.decoded()
    assert slots.take([*C, 1]) == Taken(0, 100, [Restore(3, 0, 100)])


def test_a_few_tokens_are_not_copied_between_streams() -> None:
    slots = store(2, streams=True)
    start(slots, [1, 2, 3, *A])
    assert slots.take([1, 2, 3, *B]) == Taken(1, 0, [Keep(1, 0)])


def test_a_gap_is_closed_by_the_last() -> None:
    slots = store(4, streams=True)
    for tokens in (A, B, C):
        start(slots, tokens)
    assert not slots.has_gap
    slots.release(1)
    assert slots.has_gap
    assert slots.close_gap() == ([Save(1, 4)], Move(2, 1, 100))
    slots.check()
    assert not slots.has_gap
    slots.grow(1, [5])
    slots.release(1)
    assert slots.take([*C, 5, 6]) == Taken(1, 101, [Keep(1, 101)])


def test_unified_cells_have_no_gaps() -> None:
    slots = store(3)
    for tokens in (A, B, C):
        start(slots, tokens)
    slots.release(1)
    assert not slots.has_gap

"""Which slot a request gets, and what it need not compute again."""

from engines.llamacpp.kv_slots import Copy, Keep, KvSlots, common_prefix


def serve(slots: KvSlots, tokens: list[int]) -> int:
    """A request that ran to its end; the slot that it had."""
    slot, reused, _ = slots.take(tokens)
    slots.grow(slot, tokens[reused:])
    slots.release(slot)
    return slot


def test_common_prefix() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([1, 2], [1, 2, 4]) == 2
    assert common_prefix([], [1]) == 0


def test_empty_slots_are_taken_in_order() -> None:
    slots = KvSlots(3)
    assert [slots.take([i])[0] for i in range(3)] == [0, 1, 2]
    assert not slots.has_free


def test_the_next_turn_continues_in_its_slot() -> None:
    slots = KvSlots(4)
    for first in (10, 20, 30):
        serve(slots, [first, 1, 2, 3])
    assert slots.take([20, 1, 2, 3, 4, 5]) == (1, 4, Keep(1, 4))


def test_the_same_prompt_again_computes_its_last_token() -> None:
    slots = KvSlots(2)
    serve(slots, [1, 2, 3])
    assert slots.take([1, 2, 3]) == (0, 2, Keep(0, 2))


def test_a_short_shared_beginning_does_not_destroy_a_conversation() -> None:
    slots = KvSlots(2)
    serve(slots, [1, *range(100)])
    assert slots.take([1, 500, 501]) == (1, 1, Copy(0, 1, 1))


def test_a_prefix_is_shared_from_a_busy_slot() -> None:
    slots = KvSlots(2)
    slot, _, _ = slots.take([1, 2, 3, 4])
    slots.grow(slot, [1, 2, 3, 4])
    assert slots.take([1, 2, 3, 9]) == (1, 3, Copy(0, 1, 3))


def test_only_computed_tokens_are_shared() -> None:
    slots = KvSlots(2)
    slot, _, _ = slots.take([1, 2, 3, 4])
    slots.grow(slot, [1, 2])
    assert slots.take([1, 2, 3, 9])[1] == 2


def test_without_a_match_the_least_recently_used_slot_goes() -> None:
    slots = KvSlots(2)
    serve(slots, [10, 11])
    serve(slots, [20, 21])
    serve(slots, [10, 11, 12])
    assert slots.take([30, 31]) == (1, 0, Keep(1, 0))


def test_a_request_may_decline_reuse() -> None:
    slots = KvSlots(2)
    serve(slots, [1, 2, 3])
    assert slots.take([1, 2, 3, 4], reuse=False) == (1, 0, Keep(1, 0))


def test_a_model_that_cannot_cut_its_state_reuses_nothing() -> None:
    slots = KvSlots(1, reuse=False)
    serve(slots, [1, 2, 3])
    assert slots.take([1, 2, 3, 4]) == (0, 0, Keep(0, 0))


def test_forgotten_content_is_not_matched() -> None:
    slots = KvSlots(1)
    slot, _, _ = slots.take([1, 2, 3])
    slots.grow(slot, [1, 2, 3])
    assert slots.release(slot, keep=False) == Keep(0, 0)
    assert slots.take([1, 2, 3])[1] == 0


def test_eviction_takes_the_oldest_idle_content() -> None:
    slots = KvSlots(3)
    serve(slots, [10, 11])
    serve(slots, [20, 21, 22])
    slots.take([30])
    assert slots.idle_tokens == 5
    assert slots.evict() == Keep(0, 0)
    assert slots.evict() == Keep(1, 0)
    assert slots.evict() is None

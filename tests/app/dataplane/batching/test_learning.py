"""What is learned of durations, by values."""

import pytest

from app.dataplane.batching.learning import Durations, Returns, worth_waiting


def learn(seen, most=32):
    durations = Durations(most)
    for rows, seconds in seen:
        durations.observe(rows, seconds)
    return durations


def test_a_line_is_found_and_carries_to_sizes_that_were_not_seen():
    durations = learn([(rows, 0.004 + 0.0005 * rows) for rows in (1, 4, 8, 1, 4, 8)])
    assert durations.fixed_s == pytest.approx(0.004)
    assert durations.row_s == pytest.approx(0.0005)
    assert durations.predict(32) == pytest.approx(0.02)


def test_what_was_seen_counts_more_than_the_line():
    durations = learn([(1, 0.002), (8, 0.002), (9, 0.004), (16, 0.004)] * 20)
    assert durations.predict(8) == pytest.approx(0.002, rel=0.1)
    assert durations.predict(9) == pytest.approx(0.004, rel=0.1)


def test_a_pause_of_the_machine_is_not_believed():
    durations = learn([(1, 0.001), (8, 0.002)] * 30)
    durations.observe(8, 5.0)
    assert durations.predict(8) < 0.003


def test_a_machine_that_became_slower_is():
    durations = learn([(1, 0.001), (8, 0.002)] * 30)
    for _ in range(40):
        durations.observe(1, 0.01)
        durations.observe(8, 0.02)
    assert durations.predict(8) == pytest.approx(0.02, rel=0.2)


def test_neither_part_of_the_line_is_negative():
    falling = learn([(1, 0.004), (2, 0.003), (4, 0.002)] * 5)
    assert falling.row_s == 0
    assert falling.fixed_s > 0
    convex = learn([(1, 0.0001), (2, 0.001), (4, 0.01)] * 5)
    assert convex.fixed_s == 0
    assert convex.row_s > 0


@pytest.mark.parametrize(
    ("cost", "best"),
    [
        (lambda rows: 0.004, 32),
        (lambda rows: 0.001 * rows, 8),
        (lambda rows: 0.04 * ((rows + 7) // 8), 8),
    ],
    ids=["flat", "linear", "steps"],
)
def test_the_fewest_rows_with_nearly_the_best_throughput(cost, best):
    durations = learn([(rows, cost(rows)) for rows in (1, 2, 4, 8, 16, 24, 32)] * 16)
    assert durations.best_rows == best


def test_another_size_is_tried_now_and_then_where_fewer_rows_are_enough():
    durations = learn([(rows, 0.001 * rows) for rows in (1, 2, 4, 8, 16, 24, 32)] * 16)
    tried = set()
    for _ in range(1000):
        tried.add(durations.target_rows)
        durations.observe(durations.target_rows, 0.001 * durations.target_rows)
    assert {8, 16, 24, 32} <= tried


def lockstep(clients, back_s, rounds=10):
    """Clients that are back ``back_s`` after each answer, evenly; at the end all were just answered, at time 0."""
    returns = Returns()
    for number in range(rounds):
        start = number - rounds
        returns.delivered(clients, start)
        for client in range(clients):
            returns.arrived(start + back_s * (client + 1) / clients)
    returns.delivered(clients, 0)
    return returns


def test_it_is_worth_waiting_for_those_who_come_soon_and_not_for_others():
    def affine(rows):
        return 0.004 + 0.0005 * rows

    expected, most = worth_waiting(8, 32, lockstep(8, 0.001), affine, 0.0)
    assert expected == pytest.approx(0.001, rel=0.1)
    assert expected < most < 0.004
    assert worth_waiting(8, 32, lockstep(8, 0.01), affine, 0.0) == (0, 0)


def test_it_is_not_worth_waiting_where_a_batch_has_no_price_of_its_own():
    assert worth_waiting(8, 32, lockstep(8, 0.001), lambda rows: 0.001 * rows, 0.0) == (0, 0)


def test_it_is_not_worth_waiting_for_a_full_batch_or_for_nobody():
    assert worth_waiting(32, 32, lockstep(8, 0.001), lambda rows: 0.004, 0.0) == (0, 0)
    assert worth_waiting(1, 32, Returns(), lambda rows: 0.004, 0.0) == (0, 0)


def test_those_who_are_late_count_as_gone():
    returns = lockstep(8, 0.001)
    assert returns.coming(0.0005) == 8
    assert returns.coming(0.5) == 0

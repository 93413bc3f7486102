import itertools
from typing import get_args

import pytest

from app.errors import Conflict
from app.jobs.job import FINISHED, TRANSITIONS, Event, advance, allowed
from app.schema.manage import JobState

STATES, EVENTS = get_args(JobState), get_args(Event)

EXPECTED = {
    "queued": {"start": "running", "pause": "paused", "cancel": "cancelled"},
    "running": {
        "pause": "paused",
        "cancel": "cancelled",
        "succeed": "succeeded",
        "fail": "failed",
        "requeue": "queued",
    },
    "paused": {"resume": "queued", "cancel": "cancelled"},
    "failed": {"resume": "queued"},
    "succeeded": {},
    "cancelled": {},
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(STATES, EVENTS)))
def test_every_event_in_every_state(state, event):
    if event in EXPECTED[state]:
        assert advance(state, event) == EXPECTED[state][event]
    else:
        with pytest.raises(Conflict, match=f"{state} cannot {event}"):
            advance(state, event)


def test_the_table_speaks_only_of_states_and_events_that_exist():
    assert {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values()) <= set(STATES)
    assert {event for _, event in TRANSITIONS} == set(EVENTS)


def test_every_state_can_be_left_or_is_an_end():
    assert all(allowed(state) for state in set(STATES) - FINISHED)
    assert {state for state in STATES if not allowed(state)} == {"succeeded", "cancelled"}

"""The life of a job, as a table."""

from typing import Literal

from app.errors import Conflict
from app.schema.manage import JobState

Event = Literal["start", "pause", "resume", "cancel", "succeed", "fail", "requeue"]

#: (state, event) → state; what is not here is not allowed. A failed job resumes from what it already has.
TRANSITIONS: dict[tuple[JobState, Event], JobState] = {
    ("queued", "start"): "running",
    ("queued", "pause"): "paused",
    ("queued", "cancel"): "cancelled",
    ("running", "pause"): "paused",
    ("running", "cancel"): "cancelled",
    ("running", "succeed"): "succeeded",
    ("running", "fail"): "failed",
    ("running", "requeue"): "queued",
    ("paused", "resume"): "queued",
    ("paused", "cancel"): "cancelled",
    ("failed", "resume"): "queued",
}
#: Nothing more happens to a job in one of these unless it is asked to.
FINISHED: frozenset[JobState] = frozenset({"succeeded", "failed", "cancelled"})


def advance(state: JobState, event: Event) -> JobState:
    """The state after ``event``. Raises `Conflict` where the table has none."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise Conflict(
            f"a job that is {state} cannot {event}", hint=f"it can {', '.join(allowed(state)) or 'do nothing more'}"
        ) from None


def allowed(state: JobState) -> list[Event]:
    return [event for source, event in TRANSITIONS if source == state]

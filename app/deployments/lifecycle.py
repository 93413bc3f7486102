"""The states of a deployment, as a table: an illegal event raises and changes nothing."""

from typing import Literal

from app.errors import Conflict
from app.schema.manage import DeploymentState

Event = Literal["start", "replica_ready", "replicas_lost", "give_up", "stop", "drained"]

TRANSITIONS: dict[tuple[DeploymentState, Event], DeploymentState] = {
    ("stopped", "start"): "starting",
    ("failed", "start"): "starting",
    ("starting", "replica_ready"): "ready",
    ("starting", "replicas_lost"): "starting",
    ("starting", "give_up"): "failed",
    ("ready", "replica_ready"): "ready",
    ("ready", "replicas_lost"): "starting",
    ("ready", "give_up"): "failed",
    ("starting", "stop"): "draining",
    ("ready", "stop"): "draining",
    ("failed", "stop"): "draining",
    ("stopped", "stop"): "stopped",
    ("draining", "stop"): "draining",
    ("draining", "drained"): "stopped",
    # Its replicas go on telling what happens to them while it drains.
    ("draining", "replica_ready"): "draining",
    ("draining", "replicas_lost"): "draining",
    ("draining", "give_up"): "draining",
}


def after(state: DeploymentState, event: Event) -> DeploymentState:
    """Raises `Conflict` where the table has no such step."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise Conflict(f"a deployment that is {state} cannot take {event}") from None

from itertools import product
from typing import get_args

import pytest

from app.deployments.lifecycle import TRANSITIONS, Event, after
from app.errors import Conflict
from app.schema.manage import DeploymentState


@pytest.mark.parametrize(("state", "event"), list(product(get_args(DeploymentState), get_args(Event))))
def test_every_state_and_event_is_either_in_the_table_or_refused(state, event):
    if (state, event) in TRANSITIONS:
        assert after(state, event) in get_args(DeploymentState)
    else:
        with pytest.raises(Conflict):
            after(state, event)


def test_every_state_can_be_stopped_and_started_again():
    for state in ("starting", "ready", "failed"):
        assert after(after(state, "stop"), "drained") == "stopped"
    assert after("stopped", "start") == "starting"

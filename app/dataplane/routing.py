"""The table of routes that the control plane publishes whole; the hot path only reads it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.dataplane.batching.batcher import Batcher
from app.dataplane.caching.response_cache import ResponseCache
from app.dataplane.pool import Pool
from app.errors import NotReady, RouteNotFound
from app.monitoring.metrics import RouteMetrics
from engines.card import Card
from engines.protocol import LanguageModel, Signature

if TYPE_CHECKING:
    from app.dataplane.ensemble import Ensemble
    from app.dataplane.sequences import Sequences

NO_CARD = Card()
IDLE = RouteMetrics("", "", 0, "tensor", "")


@dataclass(frozen=True)
class Target:
    """One route as the hot path sees it. ``batcher`` serves a tensor model, ``pool`` a language model, ``ensemble`` is
    a pipeline of other routes; a route that cannot serve has none of them and says ``why_not``."""

    route: str
    model: str
    version: int
    task: str
    created: int
    """Unix seconds of the deployment."""
    metrics: RouteMetrics = IDLE
    timeout_s: float = 0
    engine: str = ""
    digest: str = ""
    """Of the version's file."""
    card: Card = NO_CARD
    signature: Signature | None = None
    items: Signature | None = None
    """With the declared steps; `None`: it has none."""
    language: LanguageModel | None = None
    batcher: Batcher | None = None
    pool: Pool | None = None
    sequences: "Sequences | None" = None
    """`None`: the model keeps nothing between requests."""
    ensemble: "Ensemble | None" = None
    cache: ResponseCache | None = None
    """`None`: no answer is kept."""
    max_batch_size: int = 1
    why_not: str = ""


Table = Mapping[str, Target]


def find(table: Table, route: str) -> Target:
    """Raises `RouteNotFound` with what is there, or `NotReady` with the state it is in."""
    try:
        target = table[route]
    except KeyError:
        there = ", ".join(sorted(table)) or "nothing"
        raise RouteNotFound(f"there is no route {route!r}", hint=f"deployed: {there}", field="model") from None
    if target.batcher is None and target.pool is None and target.ensemble is None:
        raise NotReady(f"{route} is {target.why_not}", hint="retry later, or look at `pilothouse status`")
    return target

"""What is declared about a tensor model beside its file. A leaf: the daemon checks a card, a worker follows it."""

import msgspec


class Card(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Lives with the version, so that a model means the same wherever it runs."""

    labels: list[str] = []
    """Class names in the order of the last axis of the output that holds the classes."""
    units: dict[str, str] = {}
    """Tensor → what its values mean: ``mg/l``, ``0 to 16``."""
    padding: dict[str, dict[str, float]] = {}
    """Axis, by the name that the file gives it → input → the value that fills it, so that requests of different
    lengths share a batch. Outputs that have the axis are cut back."""
    states: dict[str, str] = {}
    """Input → output: what a model wants to see again in the next request of the same sequence. A request with a
    sequence id may leave these inputs out; the first one begins with zeros."""

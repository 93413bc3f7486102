"""A pipeline as a graph that flows downwards: which step stands in which line, and what flows between them. Pure."""

from dataclasses import dataclass

from app.schema.manage import Pipeline

INPUT, OUTPUT = "", "→"
"""Names of the two ends: what comes in and what goes out."""


@dataclass(frozen=True)
class Node:
    """``line`` counts from the top, ``place`` of ``places`` from the left. Ends have no route."""

    name: str
    route: str
    line: int
    place: int = 0
    places: int = 1


@dataclass(frozen=True)
class Edge:
    start: str
    end: str
    values: tuple[str, ...]
    """Names of what flows."""


def makers(pipeline: Pipeline) -> dict[str, str]:
    """Value → the step that makes it."""
    return {value: step.name for step in pipeline.steps for value in step.outputs.values()}


def lines(pipeline: Pipeline) -> dict[str, int]:
    """Step → one more than the lowest step that it waits for; the first ones are in line 1."""
    made = makers(pipeline)
    needs = {step.name: {made[value] for value in step.inputs.values() if value in made} for step in pipeline.steps}
    found: dict[str, int] = {}
    left = set(needs)
    while ready := {name for name in left if needs[name] <= found.keys()}:
        for name in ready:
            found[name] = 1 + max((found[need] for need in needs[name]), default=0)
        left -= ready
    # The daemon takes no circle; one that got here all the same is shown in a line of its own.
    return found | dict.fromkeys(sorted(left), 1 + max(found.values(), default=0))


def nodes(pipeline: Pipeline) -> list[Node]:
    """The ends and the steps, by line and in the order of the declaration."""
    at = lines(pipeline)
    last = max(at.values(), default=0) + 1
    found = [Node(INPUT, "", 0)]
    for line in range(1, last):
        steps = [step for step in pipeline.steps if at[step.name] == line]
        found += [Node(step.name, step.route, line, place, len(steps)) for place, step in enumerate(steps)]
    return [*found, Node(OUTPUT, "", last)]


def edges(pipeline: Pipeline) -> list[Edge]:
    """One between two nodes, with all that flows along it."""
    made = makers(pipeline)
    flows: dict[tuple[str, str], list[str]] = {}
    for step in pipeline.steps:
        for value in step.inputs.values():
            flows.setdefault((made.get(value, INPUT), step.name), []).append(value)
    for value in pipeline.outputs.values():
        flows.setdefault((made.get(value, INPUT), OUTPUT), []).append(value)
    return [Edge(start, end, tuple(dict.fromkeys(values))) for (start, end), values in flows.items()]


def inputs(pipeline: Pipeline) -> list[str]:
    """What comes in: declared, or every value that no step makes."""
    made = makers(pipeline)
    taken = [value for step in pipeline.steps for value in step.inputs.values() if value not in made]
    return [meta.name for meta in pipeline.inputs] or list(dict.fromkeys(taken))


def words(pipeline: Pipeline) -> str:
    """The same for who cannot see it."""
    steps = [
        f"{step.name} asks {step.route} with {', '.join(step.inputs.values())} for {', '.join(step.outputs.values())}"
        for step in pipeline.steps
    ]
    return f"takes {', '.join(inputs(pipeline))}; {'; '.join(steps)}; answers {', '.join(pipeline.outputs)}"

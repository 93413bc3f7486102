"""The shape of the database, as a list of steps that are applied once each, in order."""

import sqlite_utils

migrations = sqlite_utils.Migrations("pilothouse")


@migrations()
def create_registry(db: sqlite_utils.Database) -> None:
    """Models, their versions (files as JSON), deployments as declared, and jobs."""
    db["models"].create({"name": str, "task": str, "licence": str, "description": str}, pk="name")  # type: ignore[union-attr]
    db["versions"].create(  # type: ignore[union-attr]
        {
            "model": str,
            "version": int,
            "format": str,
            "precision": str,
            "size_bytes": int,
            "digest": str,
            "files": str,
            "source": str,
            "created": str,
            "parent": int,
            "certificate": str,
            "metadata": str,
        },
        pk=("model", "version"),
        foreign_keys=[("model", "models", "name")],
    )
    db["deployments"].create({"route": str, "spec": str, "decision": str, "created": str}, pk="route")  # type: ignore[union-attr]
    db["jobs"].create(  # type: ignore[union-attr]
        {"id": str, "kind": str, "state": str, "job": str, "created": str, "updated": str}, pk="id"
    )


@migrations()
def create_responses(db: sqlite_utils.Database) -> None:
    """Responses that clients may come back to. The large columns are last, so that the small ones are read alone."""
    db["responses"].create(  # type: ignore[union-attr]
        {"id": str, "previous": str, "used": int, "size_bytes": int, "input": bytes, "response": bytes}, pk="id"
    )
    db["responses"].create_index(["used", "size_bytes"])  # type: ignore[union-attr]


@migrations()
def add_cards(db: sqlite_utils.Database) -> None:
    """What is declared about a version, as JSON."""
    db["versions"].add_column("card", str)  # type: ignore[union-attr]


@migrations()
def add_spec_before(db: sqlite_utils.Database) -> None:
    """What served a route when another declaration was accepted, as JSON; none once that has taken over."""
    db["deployments"].add_column("before", str)  # type: ignore[union-attr]

"""Responses that are kept, so that a conversation can go on from them: bounded in number and bytes, the least recently
used forgotten first. What was answered as kept is on the disk."""

import time
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlite_utils

from app.db import Store
from app.errors import NotFound

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

#: From a response back to the first of its conversation.
_CHAIN = """
    WITH RECURSIVE chain(id, previous, depth) AS (
        SELECT id, previous, 0 FROM responses WHERE id = :id
        UNION ALL
        SELECT r.id, r.previous, depth + 1 FROM responses r JOIN chain ON r.id = chain.previous
    )
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """``input`` are the items that came with this request; those of earlier ones are with `previous`."""

    id: str
    previous: str | None
    input: list[dict[str, Any]]
    response: dict[str, Any]


class ResponseStore:
    """``limit`` responses of together ``limit_bytes`` are kept; a ``limit`` of 0 keeps none. The newest is kept even
    where it alone is larger."""

    def __init__(self, store: Store, limit: int, limit_bytes: int):
        self._store, self.limit, self.limit_bytes = store, limit, limit_bytes

    async def put(self, kept_input: bytes, response_id: str, previous: str | None, response: Any) -> None:
        """``kept_input``: the items as JSON. Returns when it is committed; ``previous`` may be gone by then."""
        row = (response_id, previous, time.time_ns(), kept_input, _encode(response))
        await self._store.run(lambda db: self._put(db, *row))

    def _put(
        self, db: sqlite_utils.Database, number: str, previous: str | None, now: int, items: bytes, response: bytes
    ) -> None:
        size = len(items) + len(response)
        db.execute(
            "INSERT INTO responses (id, previous, used, size_bytes, input, response) VALUES (?, ?, ?, ?, ?, ?)",
            [number, previous, now, size, items, response],
        )
        # A conversation that goes on is used as a whole.
        touch = _CHAIN + "UPDATE responses SET used = :now WHERE id IN (SELECT id FROM chain)"
        db.execute(touch, {"id": number, "now": now})
        db.execute(
            """
            DELETE FROM responses WHERE id <> :id AND id IN (
                SELECT id FROM (
                    SELECT id, row_number() OVER newest AS place, sum(size_bytes) OVER newest AS total
                    FROM responses WINDOW newest AS (ORDER BY used DESC, rowid DESC)
                ) WHERE place > :limit OR total > :bytes
            )
            """,
            {"id": number, "limit": self.limit, "bytes": self.limit_bytes},
        )

    async def get(self, response_id: str, field: str = "") -> Kept:
        """Raises `NotFound`."""
        query = "SELECT id, previous, input, response FROM responses WHERE id = :id"
        return (await self._read(query, response_id, field))[0]

    async def chain(self, response_id: str, field: str = "", whole: bool = True) -> list[Kept]:
        """The conversation that ends with ``response_id``, oldest first. Raises `NotFound`, where it must be ``whole``
        also if an earlier part of it is gone."""
        columns = "SELECT r.id, r.previous, r.input, r.response FROM chain JOIN responses r USING (id)"
        found = await self._read(f"{_CHAIN} {columns} ORDER BY depth DESC", response_id, field)
        if whole and (missing := found[0].previous) is not None:
            raise self._missing(missing, field)
        return found

    async def _read(self, query: str, response_id: str, field: str) -> list[Kept]:
        rows = await self._store.run(lambda db: db.execute(query, {"id": response_id}).fetchall())
        if not rows:
            raise self._missing(response_id, field)
        return [Kept(row[0], row[1], _decode(row[2]), _decode(row[3])) for row in rows]

    async def delete(self, response_id: str) -> None:
        """Raises `NotFound`."""
        gone = await self._store.run(
            lambda db: db.execute("DELETE FROM responses WHERE id = ?", [response_id]).rowcount
        )
        if not gone:
            raise self._missing(response_id, "")

    def _missing(self, response_id: str, field: str) -> NotFound:
        return NotFound(
            f"there is no response {response_id}",
            hint=f"it was not stored, deleted, or forgotten: the latest {self.limit} are kept",
            field=field,
            code="response_not_found",
        )

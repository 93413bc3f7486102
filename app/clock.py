"""Moments as the API writes them."""

from datetime import UTC, datetime


def timestamp(now: datetime | None = None) -> str:
    """RFC 3339, UTC, to the millisecond."""
    return (now or datetime.now(UTC)).isoformat(timespec="milliseconds").replace("+00:00", "Z")

"""The hot path: from a protocol-neutral request to a worker and back. No SQL."""

"""HTTP wire schema: one msgspec module a protocol. A leaf: imports nothing of ours."""

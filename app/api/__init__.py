"""Bytes <-> schema <-> one neutral call: one module a protocol, thin."""

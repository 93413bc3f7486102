"""Engines and the workers that hold them. Imports nothing of `app` or `ui`."""

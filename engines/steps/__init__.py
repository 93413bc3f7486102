"""Declared steps: from an item to what a model takes, and from what it gives to an answer."""

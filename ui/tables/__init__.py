"""Table models: which columns show what of which row."""

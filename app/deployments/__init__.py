"""The control plane: what should be served, and making it so."""

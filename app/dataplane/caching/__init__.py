"""Answers that are kept, by the digest of all that they depend on."""

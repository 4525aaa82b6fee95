"""Checkpoints: what is in one, where they lie, and finding the newest that is whole."""

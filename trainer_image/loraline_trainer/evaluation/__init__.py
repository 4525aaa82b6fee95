"""Evaluation on held-out examples: loss, answers, gates."""

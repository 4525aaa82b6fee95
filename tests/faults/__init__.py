"""Breaks the operator's world at every point that matters, and checks that it comes to the same end.

`python -m faults` runs the plans; `README` of the method: docs/reliability.md.
"""

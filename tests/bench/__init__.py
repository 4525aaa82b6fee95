"""Benchmarks: each has a folder, a verb of make, and figures in build/."""

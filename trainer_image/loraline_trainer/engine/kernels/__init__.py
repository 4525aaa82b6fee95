"""Triton kernels of the engine; imported only where they can run."""

"""Memory of this process and of its GPU, measured."""

from __future__ import annotations

import resource

import torch

from loraline_trainer.training.plan import Machine


def peak_bytes() -> int:
    """Most memory this process held so far: GPU memory when there is a GPU, else resident memory."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def machine(layers: int, hidden: int) -> Machine:
    """What the plan needs to know; to be asked when the base model is loaded."""
    free = None
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return Machine(free_bytes=free, layers=layers, hidden=hidden)

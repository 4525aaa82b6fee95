"""Memory of this process, of its GPU and of its host, measured."""

from __future__ import annotations

import resource
from pathlib import Path

import torch

from loraline_trainer.engine.memory_plan import Memory
from loraline_trainer.training.plan import Machine

MARGIN_SHARE = 0.04
"""Share of a GPU's memory that no plan spends: workspaces of libraries, and holes between blocks."""

PINNED_SHARE = 0.7
"""Share of the free host memory that inputs of layers may take: the page cache and the data want some too."""

MEMORY_INFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")

_peaks: list[int] = []
"""Peaks of GPU memory before it was asked anew."""


def peak_bytes() -> int:
    """Most memory this process held so far: GPU memory when there is a GPU, else resident memory."""
    if torch.cuda.is_available():
        return max([*_peaks, int(torch.cuda.max_memory_allocated())])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def machine(layers: int, hidden: int) -> Machine:
    """What the plan needs to know; to be asked when the base model is loaded."""
    return Machine(free_bytes=_free_gpu_bytes(), layers=layers, hidden=hidden)


class Gpu:
    """The GPU's memory as `training.passes` asks for it; without a GPU there is none to run out of."""

    def allocated(self) -> int:
        """Bytes in use."""
        return int(torch.cuda.memory_allocated()) if torch.cuda.is_available() else 0

    def begin_peak(self) -> None:
        """Forgets the peak so far; `peak_bytes` does not."""
        if torch.cuda.is_available():
            _peaks[:] = [peak_bytes()]
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Most bytes in use since then."""
        return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0

    def budget(self, pending_bytes: int) -> Memory:
        """What passes may take beside that many bytes that are not in use yet."""
        free = _free_gpu_bytes()
        if free is None:
            return Memory(free_host_bytes(), 0)
        _, total = torch.cuda.mem_get_info()
        spendable = free - pending_bytes - round(MARGIN_SHARE * total)
        return Memory(max(0, spendable), round(PINNED_SHARE * free_host_bytes()))

    def release(self) -> None:
        """Gives cached memory back."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def free_host_bytes(info: Path = MEMORY_INFO, cgroup: Path = CGROUP) -> int:
    """Host memory that this process may still take: what is free, within the container's limit."""
    free = next(int(line.split()[1]) * 1024 for line in info.read_text().splitlines() if line.startswith("MemAvail"))
    limit = cgroup / "memory.max"
    if limit.exists() and limit.read_text().strip() != "max":
        return min(free, int(limit.read_text()) - int((cgroup / "memory.current").read_text()))
    return free


def _free_gpu_bytes() -> int | None:
    """Free memory of the GPU, with what this process has reserved and does not use; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.memory_reserved()
    allowed = round(total * torch.cuda.get_per_process_memory_fraction()) - reserved
    return min(free, allowed) + reserved - int(torch.cuda.memory_allocated())

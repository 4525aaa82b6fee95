"""CPU time and memory of processes, as /proc tells them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def memory_mb(pid: int) -> float:
    """Resident memory of a process in MB."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) * 1024 / 1e6 for line in text.splitlines() if line.startswith("VmRSS"))


def cluster_pids(folder: Path) -> Mapping[str, int]:
    """The programs of a built-in cluster by name."""
    files = sorted((folder / "pids").iterdir())
    return {file.name.split("-", 1)[1]: int(file.read_text(encoding="utf-8").split()[0]) for file in files}


class Meter:
    """CPU time of some processes from now on."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._before = {name: cpu_s(pid) for name, pid in pids.items()}

    def read(self) -> dict[str, float]:
        """Seconds of CPU of each since the start."""
        return {name: round(cpu_s(pid) - self._before[name], 2) for name, pid in self._pids.items()}

"""What follows from the runs: the goals, what limits a burst, and the memory of an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Run = dict[str, Any]
API_SERVER = ("kube-apiserver", "etcd", "stand-in")


def of(runs: Sequence[Run]) -> dict[str, Any]:
    """The figures that the goals are about, by API server."""
    return {server: _of([run for run in runs if run["apiServer"] == server]) for server in ("real", "stand-in")}


def api_server_cpu_s(used: dict[str, float]) -> float:
    """CPU time of what plays the API server."""
    return sum(used.get(name, 0.0) for name in API_SERVER)


def _of(runs: Sequence[Run]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for size in sorted({run["size"] for run in runs}):
        by_operator = {run["operator"]: run for run in runs if run["size"] == size}
        found[str(size)] = {who: _row(run) for who, run in by_operator.items()}
        if len(by_operator) == 2:
            ours, baseline = by_operator["ours"]["burst"], by_operator["baseline"]["burst"]
            found[str(size)]["timesBaseline"] = {
                "perSecond": round(ours["perSecond"] / baseline["perSecond"], 2),
                "perCoreSecond": round(ours["perCoreSecond"] / baseline["perCoreSecond"], 2),
            }
    for who in ("ours", "baseline"):
        sized = sorted((run["size"], run["restart"]["memoryMb"]) for run in runs if run["operator"] == who)
        if len(sized) > 1:
            (first, less), (last, more) = sized[0], sized[-1]
            found[f"{who}MemoryKbPerObject"] = round((more - less) / (last - first) * 1000, 1)
    return found


def _row(run: Run) -> dict[str, Any]:
    burst, used = run["burst"], run["burst"]["cpuSeconds"]
    row = {
        "perSecond": burst["perSecond"],
        "operatorCpuMsPerObject": burst["operatorCpuMsPerObject"],
        "apiServerCpuMsPerObject": round(api_server_cpu_s(used) / burst["measured"] * 1000, 2),
        "toldPerSecond": burst["toldPerSecond"],
        "operatorAlonePerSecond": burst["perCoreSecond"],
        "coresOfOperator": round(used["operator"] / burst["seconds"], 2),
        "coresOfApiServer": round(api_server_cpu_s(used) / burst["seconds"], 2),
        "restartSeconds": run["restart"]["seconds"],
        "restartWrites": run["restart"]["writes"],
        "restartMemoryMb": run["restart"]["memoryMb"],
    }
    for phase in ("latency", "latencyBeside"):
        if phase in run:
            row[phase] = {key: run[phase][key] for key in ("p50Seconds", "p99Seconds")}
    if "restartRunning" in run:
        row["restartRunning"] = {key: run["restartRunning"][key] for key in ("seconds", "writes", "memoryMb")}
    if "steady" in run:
        row["steady"] = {key: run["steady"][key] for key in ("operatorCpuShare", "requestsPerSecond", "memoryMb")}
    return row

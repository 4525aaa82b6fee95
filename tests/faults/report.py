"""What the plans came to: build/faults.json, and a summary for people."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from faults.judge import Judgement
from faults.plans import Fault, parse
from faults.play import Result


def write(path: Path, results: Sequence[Result], judged: Judgement | None = None) -> None:
    """Writes the report; what failed comes first."""
    singles = [result for result in results if len(parse(result.plan).strikes) <= 1]
    pairs = [result for result in results if len(parse(result.plan).strikes) > 1]
    body = {
        "plans": len(results),
        "converged": sum(result.converged for result in results),
        "failed": [result.plan for result in results if not result.converged],
        "singles": _share(singles),
        "pairs": _share(pairs),
        "notReached": [result.plan for result in results if not result.was_struck],
        **({"manifests": dataclasses.asdict(judged)} if judged is not None else {}),
        "verdicts": [_verdict(result) for result in sorted(results, key=lambda item: (item.converged, item.plan))],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def summary(results: Sequence[Result]) -> str:
    """A table of flows and faults (converged of all), the failures in full, and the totals."""
    faults = [fault for fault in Fault if any(fault in parse(result.plan).faults for result in results)]
    lines = ["| flow | " + " | ".join(faults) + " |", "|" + " --- |" * (len(faults) + 1)]
    totals: Counter[tuple[str, str]] = Counter()
    good: Counter[tuple[str, str]] = Counter()
    for result in results:
        plan = parse(result.plan)
        for fault in plan.faults:
            totals[plan.flow, fault] += 1
            good[plan.flow, fault] += result.converged
    for flow in sorted({flow for flow, _ in totals}):
        cells = [f"{good[flow, fault]}/{totals[flow, fault]}" if totals[flow, fault] else "" for fault in faults]
        lines.append(f"| {flow} | " + " | ".join(cells) + " |")
    lines += ["", *_failures(results), *_closing(results)]
    return "\n".join(lines)


def manifests(judged: Judgement) -> str:
    """What became of the generated manifests."""
    lines = [f"FAILED {problem}" for problem in judged.problems]
    lines.append(
        f"{judged.accepted} generated manifests were accepted and came to rest in {judged.seconds} s, "
        f"{judged.refused} were refused by the name of the field, {len(judged.problems)} did neither"
    )
    return "\n".join(lines) + "\n"


def _failures(results: Iterable[Result]) -> list[str]:
    return [f"FAILED {result.plan}: {'; '.join(result.problems)}" for result in results if not result.converged]


def _closing(results: Sequence[Result]) -> list[str]:
    reached = [result for result in results if result.was_struck]
    recoveries = [result.recovery_s for result in results if result.recovery_s is not None]
    lines = [
        f"{sum(result.converged for result in results)} of {len(results)} plans converged; "
        f"{len(results) - len(reached)} of them did not reach their point"
    ]
    if recoveries:
        lines.append(f"first write after an outage: {max(recoveries)} s at most, of {len(recoveries)}")
    return lines


def _share(results: Sequence[Result]) -> dict[str, int]:
    return {"plans": len(results), "converged": sum(result.converged for result in results)}


def _verdict(result: Result) -> dict[str, Any]:
    verdict: dict[str, Any] = {"id": result.plan, "converged": result.converged, "seconds": result.seconds}
    if result.problems:
        verdict["problems"] = result.problems
    if not result.was_struck:
        verdict["reached"] = False
    if result.recovery_s is not None:
        verdict["recoverySeconds"] = result.recovery_s
    if result.restarts:
        verdict["restarts"] = result.restarts
    return verdict

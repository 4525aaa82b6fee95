"""What the plans came to: build/faults.json, a summary for people, and whether the goals are met."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import loraline_operator
from faults.chaos import Chaos
from faults.judge import Judgement
from faults.plans import Fault, parse
from faults.play import Result

PAIRS_GOAL = 0.95
"""Share of the pairs that has to converge; of the single faults it is all."""


def meets_goals(results: Sequence[Result], judged: Judgement | None, chaos: Chaos | None) -> bool:
    """Whether all single faults and enough of the pairs converged, and manifests and chaos came to no wrong end."""
    singles, pairs = _parted(results)
    enough = sum(result.converged for result in pairs) >= PAIRS_GOAL * len(pairs)
    others = [found for found in (judged, chaos) if found is not None and found.problems]
    return all(result.converged for result in singles) and enough and not others


def operator_digest() -> str:
    """What the verdicts are about: the operator's code, 12 digits of its SHA-256."""
    folder = Path(loraline_operator.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def converged(path: Path) -> list[Result]:
    """The plans of an earlier report that converged, if it is about the operator as it is now."""
    if not path.exists():
        return []
    body = json.loads(path.read_text(encoding="utf-8"))
    if body.get("operator") != operator_digest():
        return []
    return [
        Result(
            one["id"],
            was_struck=one.get("reached", True),
            seconds=one["seconds"],
            recovery_s=one.get("recoverySeconds"),
            restarts=one.get("restarts", 0),
        )
        for one in body["verdicts"]
        if one["converged"]
    ]


def write(path: Path, results: Sequence[Result], judged: Judgement | None = None, chaos: Chaos | None = None) -> None:
    """Writes the report; what failed comes first."""
    singles, pairs = _parted(results)
    body = {
        "operator": operator_digest(),
        "plans": len(results),
        "converged": sum(result.converged for result in results),
        "failed": [result.plan for result in results if not result.converged],
        "singles": _share(singles),
        "pairs": _share(pairs),
        "notReached": [result.plan for result in results if not result.was_struck],
        **({"manifests": dataclasses.asdict(judged)} if judged is not None else {}),
        **({"chaos": dataclasses.asdict(chaos)} if chaos is not None else {}),
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


def chaos(found: Chaos) -> str:
    """What became of the minutes of kills."""
    done = ", ".join(f"{count} {what}" for what, count in sorted(found.operations.items()))
    ended = ", ".join(f"{count} {phase}" for phase, count in sorted(found.ended.items()))
    lines = [f"FAILED chaos: {problem}" for problem in found.problems]
    lines.append(
        f"{found.kills} kills in {found.minutes:g} min (fine-tunes: {done}); at rest {found.rest_s} s after the last "
        f"one, with {ended or 'none'} and {len(found.problems)} problems"
    )
    return "\n".join(lines) + "\n"


def _parted(results: Iterable[Result]) -> tuple[list[Result], list[Result]]:
    """Single faults, with the clean runs, and pairs."""
    parts: tuple[list[Result], list[Result]] = ([], [])
    for result in results:
        parts[len(parse(result.plan).strikes) > 1].append(result)
    return parts


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

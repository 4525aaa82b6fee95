"""`python -m faults`: plays plans, judges manifests and kills for minutes, as asked, and writes build/faults.json."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import itertools
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faults import chaos, ground, judge, plans, report
from faults.chaos import Chaos
from faults.judge import Judgement
from faults.plans import MEANING, Plan
from faults.play import Arena, Reference, Result
from faults.proxy import OUTAGE_S

REPORT = Path("build/faults.json")


@dataclass
class Found:
    """What a run came to."""

    results: list[Result] = field(default_factory=list)
    judged: Judgement | None = None
    chaos: Chaos | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Plays what is asked for; 0 when the goals are met."""
    options = _parser().parse_args(arguments)
    if options.list:
        sys.stdout.writelines(f"{fault}\t{meaning}\n" for fault, meaning in MEANING.items())
        return 0
    with tempfile.TemporaryDirectory(prefix="loraline-faults-") as folder:
        kept = options.folder or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        found, is_whole = Found(), True
        try:
            asyncio.run(_run(options, kept, found))
        except KeyboardInterrupt:
            is_whole = False
    report.write(options.report, found.results, found.judged, found.chaos)
    sys.stdout.write(report.summary(found.results) + "\n" if found.results else "")
    sys.stdout.write(report.manifests(found.judged) if found.judged else "")
    sys.stdout.write(report.chaos(found.chaos) if found.chaos else "")
    return 0 if is_whole and report.meets_goals(found.results, found.judged, found.chaos) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument(
        "--plan", action="append", default=[], type=_plan, help="plays the plan of this id (flow/fault/point)"
    )
    parser.add_argument("--flow", action="append", default=[], choices=ground.names(), help="only this flow")
    parser.add_argument("--fault", action="append", default=[], choices=list(map(str, MEANING)), help="only this fault")
    parser.add_argument("--sample", type=int, default=0, help="plays so many single faults, always the same ones")
    parser.add_argument("--pairs", type=int, default=0, help="plays so many pairs as well, always the same ones")
    parser.add_argument("--manifests", type=int, default=0, help="judges so many generated manifests as well")
    parser.add_argument("--chaos", type=float, default=0.0, help="kills for so many minutes; alone, it plays no plans")
    parser.add_argument("--at-once", type=int, default=ground.AT_ONCE, help="plans at once")
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="begins no plan after so many seconds")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="takes over what converged in the report of the same operator, plays the rest",
    )
    parser.add_argument("--list", action="store_true", help="says what the faults are")
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument(
        "--kubeconfig", type=Path, help="a control plane that runs and has our CRDs; default: a new one"
    )
    parser.add_argument("--folder", type=Path, help="keeps the logs in this folder")
    return parser


def _plan(text: str) -> Plan:
    """The plan of an id that is typed in."""
    with contextlib.suppress(ValueError):
        plan = plans.parse(text)
        if plan.flow in ground.names():
            return plan
    flows, faults = ", ".join(ground.names()), ", ".join(MEANING)
    raise argparse.ArgumentTypeError(
        f"{text!r} is no plan; write flow/fault/point, as in first-run/kill/post-jobs-1, with a flow of {flows} and a "
        f"fault of {faults}"
    )


async def _run(options: argparse.Namespace, folder: Path, found: Found) -> None:
    place = ground.joined(options.kubeconfig, folder) if options.kubeconfig else ground.arena(folder)
    async with place as arena:
        if options.manifests:
            found.judged = await judge.judge(arena, options.manifests)
        references, chosen = await _learned(arena, options, found) if _wants_plans(options) else ({}, [])
        tell = _teller(found, len(chosen))
        play = functools.partial(ground.run, arena, references=references, tell=tell, limit_s=options.limit_s)
        outages = [plan for plan in chosen if set(plan.faults) & set(OUTAGE_S)]
        others = [plan for plan in chosen if not set(plan.faults) & set(OUTAGE_S)]
        async with asyncio.TaskGroup() as group:  # outages and kills mostly wait: they go on beside the other plans
            group.create_task(play(outages, at_once=ground.OUTAGES_AT_ONCE))
            group.create_task(_kill(arena, options, found))
            group.create_task(play(others, at_once=options.at_once))


async def _kill(arena: Arena, options: argparse.Namespace, found: Found) -> None:
    if options.chaos:
        found.chaos = await chaos.unleash(arena, options.chaos)


def _teller(found: Found, total: int) -> Callable[[Result], None]:
    """Keeps each result, and tells it."""
    numbers = itertools.count(1)

    def tell(result: Result) -> None:
        found.results.append(result)
        verdict = "converged" if result.converged else "FAILED: " + "; ".join(result.problems)
        away = "" if result.was_struck else " (its point did not come)"
        sys.stderr.write(f"[{next(numbers)}/{total}] {result.plan}: {verdict}{away}, {result.seconds} s\n")

    return tell


def _wants_plans(options: argparse.Namespace) -> bool:
    others = (options.plan, options.flow, options.fault, options.sample, options.pairs, options.manifests)
    return not options.chaos or any(others)


async def _learned(arena: Arena, options: argparse.Namespace, found: Found) -> tuple[dict[str, Reference], list[Plan]]:
    """The clean runs, and the plans that are asked for of those flows that ended well."""
    asked: list[Plan] = options.plan
    names = sorted({plan.flow for plan in asked}) or options.flow or ground.names()
    references, found.results = await ground.learn(arena, names, options.at_once)
    known = _known(options, {result.plan for result in found.results})
    found.results.extend(known)
    sound = {plans.parse(result.plan).flow for result in found.results if result.converged}
    references = {name: reference for name, reference in references.items() if name in sound}
    wanted = [plan for plan in asked or _chosen(options, ground.singles(references)) if plan.flow in sound]
    chosen = [plan for plan in wanted if plan.id not in {result.plan for result in known}]
    sys.stderr.write(f"{len(chosen)} plans, {len(known)} known\n")
    return references, chosen


def _known(options: argparse.Namespace, played: set[str]) -> list[Result]:
    """What an earlier run leaves to say."""
    if not options.resume:
        return []
    return [result for result in report.converged(options.report) if result.plan not in played]


def _chosen(options: argparse.Namespace, every: list[Plan]) -> list[Plan]:
    pairs = plans.pairs(every, options.pairs)
    if options.fault:
        every = [plan for plan in every if set(plan.faults) & set(options.fault)]
    singles = plans.sample(every, options.sample) if options.sample else plans.spread(every)
    return plans.mixed(singles, pairs)


if __name__ == "__main__":
    sys.exit(main())

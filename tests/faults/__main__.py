"""`python -m faults [--plan ID] [--sample N] [--flow NAME] [--pairs N]`: plays plans and writes build/faults.json."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from faults import ground, judge, plans, report
from faults.judge import Judgement
from faults.plans import MEANING, Plan
from faults.play import Result

REPORT = Path("build/faults.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Plays what is asked for; 0 when everything converged."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("--plan", action="append", default=[], help="plays the plan of this id (flow/fault/point)")
    parser.add_argument("--flow", action="append", default=[], help="only this flow")
    parser.add_argument("--fault", action="append", default=[], help="only this fault")
    parser.add_argument("--sample", type=int, default=0, help="plays so many single faults, always the same ones")
    parser.add_argument("--pairs", type=int, default=0, help="plays so many pairs as well, always the same ones")
    parser.add_argument("--manifests", type=int, default=0, help="judges so many generated manifests as well")
    parser.add_argument("--at-once", type=int, default=ground.AT_ONCE, help="plans at once")
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="begins no plan after so many seconds")
    parser.add_argument("--list", action="store_true", help="says what the faults are")
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument(
        "--kubeconfig", type=Path, help="a control plane that runs and has our CRDs; default: a new one"
    )
    parser.add_argument("--folder", type=Path, help="keeps the logs in this folder")
    options = parser.parse_args(arguments)
    if options.list:
        sys.stdout.writelines(f"{fault}\t{meaning}\n" for fault, meaning in MEANING.items())
        return 0
    with tempfile.TemporaryDirectory(prefix="loraline-faults-") as folder:
        kept = options.folder or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        found = asyncio.run(_run(options, kept))
    results, judged = found
    report.write(options.report, results, judged)
    sys.stdout.write(report.summary(results) + "\n" + (report.manifests(judged) if judged else ""))
    return 0 if all(result.converged for result in results) and (judged is None or not judged.problems) else 1


async def _run(options: argparse.Namespace, folder: Path) -> tuple[list[Result], Judgement | None]:
    asked = [plans.parse(text) for text in options.plan]
    names = sorted({plan.flow for plan in asked}) or options.flow or ground.names()
    place = ground.joined(options.kubeconfig, folder) if options.kubeconfig else ground.arena(folder)
    async with place as arena:
        references, results = await ground.learn(arena, names, options.at_once)
        sound = {plans.parse(result.plan).flow for result in results if result.converged}
        references = {name: reference for name, reference in references.items() if name in sound}
        chosen = [plan for plan in asked or _chosen(options, ground.singles(references)) if plan.flow in sound]
        sys.stderr.write(f"{len(chosen)} plans\n")
        results += await ground.run(arena, chosen, references, options.at_once, limit_s=options.limit_s)
        return results, await judge.judge(arena, options.manifests) if options.manifests else None


def _chosen(options: argparse.Namespace, every: list[Plan]) -> list[Plan]:
    pairs = plans.pairs(every, options.pairs)
    if options.fault:
        every = [plan for plan in every if set(plan.faults) & set(options.fault)]
    return plans.sample(every, options.sample or len(every)) + pairs


if __name__ == "__main__":
    sys.exit(main())

"""A sample of the plans of `make faults`, and the proof that its harness finds operators that are broken on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cluster import fixture
from faults import ground, judge, plans, play, proxy
from faults.plans import Fault
from faults.play import Arena, Reference
from harness import operator_process as harness

FLOWS = ("first-run", "edit", "suspend", "delete", "policy-change", "rollout")
PLANS = 14
LASTING = ("first-run/outage/post-jobs-1", "first-run/pause/post-jobs-1")
SHORT_OUTAGE_S = 12.0
"""Longer than the ten seconds for which a leader may write after its last renewal."""

MANIFESTS = 60
TURNS = 3
FOUND_BY = {
    "chance-names": "first-run/kill/post-jobs-1",
    "blind-status": "first-run/repeat/jobs-added-1",
    "trusted-copies": "first-run/delay/pods-modified-3",
    "no-resync": "first-run/drop/lorafinetunes-added-1",
    "impatience": "edit/repeat/jobs-added-1",
}
"""A plan that finds each seeded bug."""


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A control plane with our CRDs."""
    with fixture.control_plane(tmp_path_factory.mktemp("cluster"), ground.CHEAPER) as path:
        harness.install_crds(path)
        yield path


@pytest.fixture
async def arena(kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Arena]:
    """The arena of the real operator."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    async with ground.joined(kubeconfig, tmp_path) as joint:
        yield joint


@pytest.fixture(scope="module")
def learned() -> dict[str, Reference]:
    """The clean runs that were played before."""
    return {}


async def learn(arena: Arena, learned: dict[str, Reference], names: tuple[str, ...]) -> None:
    """Plays the clean runs that are lacking."""
    lacking = [name for name in names if name not in learned]
    found, results = await ground.learn(arena, lacking, ground.AT_ONCE)
    assert [(result.plan, result.problems) for result in results if not result.converged] == []
    learned |= found


async def test_a_sample_of_faults_leads_to_the_end_of_the_clean_run(
    arena: Arena, learned: dict[str, Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(proxy.OUTAGE_S, Fault.OUTAGE, SHORT_OUTAGE_S)
    await learn(arena, learned, FLOWS)
    lasting = set(plans.ONCE_A_FLOW)
    short = [plan for plan in ground.singles(learned) if not lasting & set(plan.faults)]
    chosen = [*map(plans.parse, LASTING), *plans.sample(short, PLANS)]
    results = await ground.run(arena, chosen, learned, ground.AT_ONCE)
    assert {result.plan: result.problems for result in results if not result.converged} == {}
    assert len(results) == len(chosen)


async def test_generated_manifests_come_to_rest_or_are_refused_by_the_name_of_a_field(arena: Arena) -> None:
    judgement = await judge.judge(arena, MANIFESTS)
    assert judgement.problems == []
    assert min(judgement.accepted, judgement.refused) > MANIFESTS // 10


async def test_every_seeded_bug_is_found(
    arena: Arena,
    learned: dict[str, Reference],
    kubeconfig: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await learn(arena, learned, ("first-run", "edit"))
    monkeypatch.setattr(play, "STEP_LIMIT_S", 15.0)  # these are to fail: nobody need wait long for them
    monkeypatch.setattr(play, "CONVERGE_S", 6.0)

    async def verdict(bug: str, plan: str) -> bool:
        """Whether the plan converged each time: where all is late, an event that is two seconds late may be in time."""
        for turn in range(TURNS):
            folder = tmp_path / f"{bug}-{turn}"
            folder.mkdir()
            async with ground.joined(kubeconfig, folder, bug) as broken:
                (result,) = await ground.run(broken, [plans.parse(plan)], learned, 1)
            if not result.converged:
                return False
        return True

    verdicts = await asyncio.gather(*(asyncio.create_task(verdict(*item)) for item in FOUND_BY.items()))
    assert dict(zip(FOUND_BY, verdicts, strict=True)) == dict.fromkeys(FOUND_BY, False)

"""Which objects an event wakes: those that refer to its object, when it has news for them."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.cluster import Cluster
from loraline_operator.objects import Objects
from loraline_operator.queue import WorkQueue
from loraline_operator.reconcile import FineTunes, Reconciler
from loraline_operator.references import ANY
from unit.operator.builders import SETTINGS

DEPLOYMENT = Ref(Kind.ADAPTER_DEPLOYMENT, "ns", "support")
FINETUNE = Ref(Kind.FINE_TUNE, "ns", "tickets")
OTHER = Ref(Kind.FINE_TUNE, "ns", "other")


async def woken_by(*events: tuple[Ref, Hashable]) -> list[Ref]:
    """What each event puts into the queue of a reconciler that knows a deployment which selects fine-tunes by label."""
    queue = WorkQueue()
    reconciler = Reconciler(Cluster(), Objects(), queue, SETTINGS)
    reconciler.references.set(DEPLOYMENT, [Ref(Kind.FINE_TUNE, "ns", ANY)])
    found = []
    for ref, news in events:
        reconciler.changed(ref, news)
        while queue._waiting:
            key = await queue.get()
            queue.done(key)
            found.append(key)
    return found


class Nowhere:
    """A path that is not gone."""

    async def run(self, ref: Ref) -> float | None:
        """No pass."""
        raise AssertionError(ref)

    def forget(self, ref: Ref) -> None:
        """Nothing was kept."""


def a_finetune_at(version: int, name: str = "tickets", phase: str = "Running") -> Manifest:
    metadata = {"name": name, "namespace": "ns", "uid": "u", "resourceVersion": str(version)}
    return {"metadata": metadata, "status": {"phase": phase}}


async def queued(queue: WorkQueue) -> list[Ref]:
    keys = [await queue.get() for _ in range(len(queue._waiting))]
    for key in keys:
        queue.done(key)
    return keys


async def test_a_fine_tune_runs_for_each_new_state_and_when_a_list_lacks_it() -> None:
    queue, objects = WorkQueue(), Objects()
    reconciler = Reconciler(Cluster(), objects, queue, SETTINGS)
    reconciler.paths = {Kind.FINE_TUNE: Nowhere()}
    finetunes = FineTunes(reconciler)
    finetunes.seen(a_finetune_at(5))
    finetunes.seen(a_finetune_at(6, "other", "Failed"))
    assert (sorted(await queued(queue)), objects.phases()) == ([OTHER, FINETUNE], {"Running": 1, "Failed": 1})
    finetunes.seen(a_finetune_at(5))
    assert await queued(queue) == []
    finetunes.keep_only(None, {("ns", "other")}, 9)
    assert (await queued(queue), list(objects)) == ([FINETUNE], [OTHER])
    finetunes.gone(a_finetune_at(10, "other"))
    assert (await queued(queue), list(objects)) == ([OTHER], [])


@pytest.mark.parametrize(
    ("events", "wakes"),
    [
        pytest.param([(FINETUNE, "a")], 1, id="the first word of a fine-tune"),
        pytest.param([(FINETUNE, "a"), (FINETUNE, "a")], 1, id="progress alone is no news"),
        pytest.param([(FINETUNE, "a"), (FINETUNE, "b")], 2, id="a label or an adapter is news"),
        pytest.param([(FINETUNE, "a"), (FINETUNE, None)], 2, id="a deletion is always news"),
        pytest.param([(Ref(Kind.FINE_TUNE, "other", "tickets"), "a")], 0, id="another namespace's fine-tune is none"),
    ],
)
async def test_a_selecting_deployment_is_woken_by_news(events: list[tuple[Ref, Hashable]], wakes: int) -> None:
    assert await woken_by(*events) == [DEPLOYMENT] * wakes

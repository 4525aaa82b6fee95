"""Which objects an event wakes: those that refer to its object, when it has news for them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import pytest

from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.cluster import Cluster
from loraline_operator.queue import WorkQueue
from loraline_operator.reconcile import Reconciler
from loraline_operator.references import ANY
from unit.operator.builders import SETTINGS

DEPLOYMENT = Ref(Kind.ADAPTER_DEPLOYMENT, "ns", "support")
FINETUNE = Ref(Kind.FINE_TUNE, "ns", "tickets")


class Selecting:
    """The way of a deployment that selects fine-tunes by label."""

    def targets(self, manifest: Manifest) -> Iterable[Ref]:
        """Every fine-tune of its namespace."""
        return [Ref(Kind.FINE_TUNE, "ns", ANY)]

    async def run(self, manifest: Manifest) -> float | None:
        """Nothing is to be done."""
        return None


class Listing(Cluster):
    """A cluster that holds the deployment."""

    async def get(self, ref: Ref, *, metadata_only: bool = False) -> Manifest | None:
        """The object."""
        return {"metadata": {"name": ref.name, "namespace": ref.namespace}}


async def woken_by(*events: tuple[Ref, Hashable]) -> list[Ref]:
    """What each event puts into the queue of a reconciler that has looked at the deployment once."""
    queue = WorkQueue()
    reconciler = Reconciler(Listing(), {Kind.ADAPTER_DEPLOYMENT: Selecting()}, queue, SETTINGS)
    await reconciler._reconcile(DEPLOYMENT)
    found = []
    for ref, news in events:
        reconciler.changed(ref, news)
        while queue._waiting:
            key = await queue.get()
            queue.done(key)
            found.append(key)
    return found


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

"""Operators that are broken on purpose, one bug each: the harness has to find every one of them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from loraline_operator import naming, one_pass, plan_finetune, reconcile
from loraline_operator.look import Depth
from loraline_operator.one_pass import Look, Path


def apply(name: str) -> None:
    """Breaks the operator of this process; an empty name breaks nothing."""
    if name:
        BUGS[name]()


def _chance_names() -> None:
    """Jobs get a name by chance, so a crash between two writes makes a second one."""
    plain = naming.job_name

    def job_name(finetune: str, run_id: str, attempt: int) -> str:
        return f"{plain(finetune, run_id, attempt)}-{uuid.uuid4().hex[:4]}"

    naming.job_name = job_name


def _blind_status() -> None:
    """The status is written at every pass, whether it has changed or not."""
    one_pass.Look.changes_status = property(lambda look: look.plan.status is not None)  # type: ignore[assignment]


def _trusted_copies() -> None:
    """A plan from copies is carried out without a look that is sure, and what was written is not kept."""

    async def decided(self: Path[Any, Any, Any], ref: Any, manifest: Any) -> Look[Any, Any, Any]:
        return await self._look(manifest, Depth.COPIES)

    one_pass.Path._decided = decided  # type: ignore[method-assign]


def _no_resync() -> None:
    """Nothing is looked at again unless an event says so."""

    async def sleep_for_ever(self: reconcile.Reconciler) -> None:
        await asyncio.Event().wait()

    reconcile.Reconciler.resync = sleep_for_ever  # type: ignore[method-assign]


def _impatience() -> None:
    """The next run starts while a pod of the one before still lives."""
    plan_finetune._blocker = lambda look: None


BUGS: Mapping[str, Callable[[], None]] = {
    "chance-names": _chance_names,
    "blind-status": _blind_status,
    "trusted-copies": _trusted_copies,
    "no-resync": _no_resync,
    "impatience": _impatience,
}

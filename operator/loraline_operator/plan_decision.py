"""What the planning of a fine-tune looks at, and what it comes to: the values that its steps hand on.

No step is taken here; they are in `plan_finetune`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from loraline_api import conditions as api_conditions
from loraline_api.conditions import ConditionType, Reason
from loraline_api.finetune import LoraFineTuneSpec
from loraline_api.finetune_status import LoraFineTuneStatus, RunRef
from loraline_api.policy import ALLOW_ALL, Policy
from loraline_operator.actions import Action
from loraline_operator.observed import FineTuneObject
from loraline_operator.observed_finetune import Job, ObservedFineTune
from loraline_operator.plan_conditions import Phase
from loraline_operator.settings import Settings


@dataclass(frozen=True, slots=True)
class Look:
    """All that decides: the object, its parsed spec, its children, the settings, the time and the policy."""

    object: FineTuneObject
    spec: LoraFineTuneSpec
    observed: ObservedFineTune
    settings: Settings
    now: datetime
    settings_hash: str
    """Hash of what an attempt may change, of the spec as it was applied."""
    policy: Policy = ALLOW_ALL
    asked: LoraFineTuneSpec | None = None
    """The spec as it was applied, where `spec` has the policy's defaults filled in."""

    @property
    def status(self) -> LoraFineTuneStatus:
        """The status as it was written last."""
        return self.object.status

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The Jobs that this very object owns."""
        return tuple(job for job in self.observed.jobs if job.owner_uid == self.object.meta.uid)

    @property
    def told(self) -> str | None:
        """The reason of Ready as it was written last."""
        ready = api_conditions.find(tuple(self.status.conditions), ConditionType.READY)
        return ready.reason if ready is not None else None

    def with_status(self, status: LoraFineTuneStatus) -> Look:
        """The same with another status."""
        return replace(self, object=replace(self.object, status=status))


def what(run: RunRef) -> str:
    """A run and its attempt, as the beginning of a sentence."""
    return f"run {run.id}, attempt {run.attempt}"


@dataclass(frozen=True, slots=True)
class Decision:
    """A phase with its reason, the status data that goes with it, and the actions that lead on."""

    phase: Phase
    reason: Reason
    message: str
    status: LoraFineTuneStatus
    actions: tuple[Action, ...] = ()
    requeue_after_s: float | None = None
    is_stalled: bool = False

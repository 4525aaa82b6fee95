"""Whether a fine-tune that waits may start: the policy, the size of its card, the line for GPUs, in this order.

What is judged here has no live attempt. A run that was let in is not judged again, retries included, until it is
suspended or its settings are edited: then it asks anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from loraline_api.conditions import Reason
from loraline_api.finetune import LoraFineTuneSpec
from loraline_api.finetune_status import LoraFineTuneStatus, RunRef, Waiting
from loraline_operator import plan_defaults, plan_estimate, plan_gpu_line, plan_policy
from loraline_operator.actions import Action
from loraline_operator.plan_conditions import Phase
from loraline_operator.plan_decision import Decision, Look

COUNTING_INTERVAL_S = 1.0
"""Time to the next look when the line was not read, as the fine-tune had an attempt until now."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a fine-tune may not start."""

    reason: Reason
    message: str
    waiting: Waiting | None = None
    requeue_after_s: float | None = None

    @property
    def is_final(self) -> bool:
        """Whether only an edit, of the object or of the policy, helps."""
        return self.waiting is None


Check = Callable[[Look], Refusal | None]


def with_defaults(look: Look) -> Look:
    """The look with what its spec leaves to the policy."""
    filled = plan_defaults.with_defaults(look.spec, look.object.meta.namespace, look.policy)
    return replace(look, spec=filled, asked=look.spec)


def estimated(look: Look) -> Look:
    """The look with the estimate of its spec in the status."""
    estimate = plan_estimate.estimate(_asked(look), look.object.meta.namespace, look.policy)
    status = look.status.model_copy(update={"estimate": estimate})
    return replace(look, object=replace(look.object, status=status))


def refused(look: Look, run: RunRef, status: LoraFineTuneStatus, deletions: tuple[Action, ...]) -> Decision | None:
    """The decision about a run that may not start; None lets it."""
    is_admitted = run.admitted and run.settings_hash == look.settings_hash
    refusal = None if is_admitted else next((found for check in CHECKS if (found := check(look)) is not None), None)
    if refusal is None:
        return None
    run_told = status.run.model_copy(update={"admitted": None}) if status.run is not None else None
    return Decision(
        Phase.PENDING,
        refusal.reason,
        refusal.message,
        status.model_copy(update={"run": run_told, "waiting": refusal.waiting}),
        deletions,
        requeue_after_s=refusal.requeue_after_s,
        is_stalled=refusal.is_final,
    )


def policy_violated(look: Look) -> Refusal | None:
    """The policy of the namespace does not allow what the spec asks for."""
    message = plan_policy.finetune_violation(_asked(look), look.object.meta.namespace, look.policy)
    return Refusal(Reason.POLICY_VIOLATION, message) if message is not None else None


def gpu_too_small(look: Look) -> Refusal | None:
    """No card, or not the one that is asked for, holds the model."""
    message = plan_estimate.too_small(_asked(look), look.object.meta.namespace, look.policy)
    return Refusal(Reason.GPU_TOO_SMALL, message) if message is not None else None


def gpus_taken(look: Look) -> Refusal | None:
    """Others hold the GPUs that the namespace may have at once, or are before it in the line."""
    meta = look.object.meta
    limit = look.policy.of(meta.namespace).limits.gpus
    claims, gpus = look.observed.claims, look.spec.compute.total_gpus
    if limit is not None and gpus and not any(claim.name == meta.name for claim in claims):
        message = f"the GPUs that namespace {meta.namespace} holds are being counted"
        return Refusal(Reason.PENDING, message, Waiting(), COUNTING_INTERVAL_S)
    wait = plan_gpu_line.wait(claims, meta.name, gpus, meta.namespace, limit)
    return Refusal(Reason.WAITING_FOR_GPUS, wait.message, wait.waiting) if wait is not None else None


CHECKS: tuple[Check, ...] = (
    policy_violated,  # the spec asks for what is not allowed
    gpu_too_small,  # it could only run out of memory
    gpus_taken,  # it is allowed, later
)


def _asked(look: Look) -> LoraFineTuneSpec:
    return look.asked or look.spec

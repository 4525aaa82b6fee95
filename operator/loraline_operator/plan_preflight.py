"""The checks of adapters off the serving pods: which are under way, what they came to, which are started or removed.

A version gets into the routing table only after its check has passed. The Job itself is the memory of its verdict: it
stays until the table holds the version, the status remembers the refusal, or nobody wants the version any more. A check
that could not judge, as S3 was down or its pod was killed, is removed after a while and started again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from loraline_api.conditions import Reason
from loraline_api.deployment import AdapterDeploymentSpec
from loraline_api.preflight import CARD_KEY
from loraline_api.routing import RouteVersion
from loraline_api.storage import S3Access
from loraline_operator import manifests_preflight, naming, observed_deployment
from loraline_operator.actions import Action, Create, Delete, Kind, Patch, Ref
from loraline_operator.observed import DeploymentObject, Meta
from loraline_operator.observed_deployment import Check, ObservedDeployment
from loraline_operator.settings import Settings

RETRY_S = 30.0
"""Time from the end of a check that could not judge to the next one."""

MAX_AT_ONCE = 4
"""Checks of one deployment that run at once."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of a version before any serving pod sees it."""

    has_passed: bool = False
    reason: Reason = Reason.ROLLING_OUT
    message: str = "is being checked"
    is_refused: bool = False

    @property
    def is_open(self) -> bool:
        """Whether a check is under way or about to be."""
        return self == Finding()


@dataclass(frozen=True, slots=True)
class Checks:
    """The checks of one deployment."""

    is_base_known: bool
    """Whether a pod has described the base model that is served."""
    findings: Mapping[tuple[str, str], Finding]
    """By version and URI."""
    actions: tuple[Action, ...] = ()

    def of(self, version: RouteVersion) -> Finding:
        """What is known of a version."""
        if not self.is_base_known:
            return Finding(
                reason=Reason.PODS_NOT_READY, message="is checked as soon as a pod tells which base model it serves"
            )
        return self.findings.get((version.version, version.uri), Finding())


def checks(
    object: DeploymentObject,
    spec: AdapterDeploymentSpec,
    observed: ObservedDeployment,
    needed: Sequence[RouteVersion],
    *,
    storage: S3Access | None,
    settings: Settings,
    now: datetime,
) -> Checks:
    """The checks of the versions that routes want and no pod holds.

    Args:
        needed: each version once.
        storage: None while no fine-tune tells where adapters lie; then there are no pods either.
    """
    meta = object.meta
    known = observed.base.digest if observed.base is not None else None
    digest = observed_deployment.served_base(observed.pods) or known
    wanted = {
        manifests_preflight.job_name(meta, spec, version, digest or ""): version
        for version in (needed if digest is not None and storage is not None else ())
    }
    there = {check.name: check for check in observed.checks if check.owner_uid == meta.uid}
    findings = {(version.version, version.uri): _finding(there.get(name)) for name, version in wanted.items()}
    actions: list[Action] = [*_base_actions(meta, observed, digest)]
    for name, check in there.items():
        if not check.is_deleting and (name not in wanted or _is_stale(check, now)):
            actions.append(Delete(Ref(Kind.JOB, meta.namespace, name), check.uid))
    if storage is not None and digest is not None and digest == known:
        room = MAX_AT_ONCE - sum(1 for check in there.values() if not check.is_ended)
        for name in [name for name in wanted if name not in there][: max(0, room)]:
            ref = Ref(Kind.JOB, meta.namespace, name)
            manifest = manifests_preflight.job(
                meta, spec, wanted[name], base_digest=digest, storage=storage, settings=settings
            )
            actions.append(Create(ref, manifest))
    return Checks(digest is not None and digest == known, findings, tuple(actions))


def _base_actions(meta: Meta, observed: ObservedDeployment, digest: str | None) -> tuple[Action, ...]:
    """The ConfigMap that describes the base model, once a pod has given the description."""
    if digest is None or observed.card is None:
        return ()
    wanted = manifests_preflight.base(meta, digest, observed.card)
    ref = Ref(Kind.CONFIG_MAP, meta.namespace, naming.base_name(meta.name))
    if observed.base is None:
        return (Create(ref, wanted),)
    if observed.base.digest == digest:
        return ()
    patch = {
        "metadata": {"annotations": wanted["metadata"]["annotations"]},
        "binaryData": {CARD_KEY: observed.card},
    }
    return (Patch(ref, patch, observed.base.uid, observed.base.resource_version),)


def _finding(check: Check | None) -> Finding:
    if check is None or check.is_deleting:
        return Finding()
    verdict = check.verdict
    if verdict is not None and verdict.has_passed:
        return Finding(has_passed=True)
    if verdict is not None and verdict.is_final:
        return Finding(reason=verdict.reason or Reason.ADAPTER_REJECTED, message=verdict.message, is_refused=True)
    if verdict is not None:
        return Finding(reason=verdict.reason or Reason.ROLLING_OUT, message=f"is checked again: {verdict.message}")
    if check.is_ended or check.problem:
        message = f"cannot be checked: Job {check.name}: {check.problem or 'its pod left no verdict'}"
        return Finding(reason=Reason.CHECK_FAILED, message=message)
    return Finding()


def _is_stale(check: Check, now: datetime) -> bool:
    """Whether the check ended without a verdict that holds, a while ago."""
    if not check.is_ended or (check.verdict is not None and check.verdict.is_final):
        return False
    return check.ended_at is None or now - check.ended_at >= timedelta(seconds=RETRY_S)

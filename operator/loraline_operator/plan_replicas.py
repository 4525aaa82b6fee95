"""Which serving pods are believed: replicas of the same version must answer the probe alike.

Compared are pods of one template, as another dtype or image gives other numbers rightly. The larger group of pods that
agree is believed, and of two equal ones that which proved the version first; the others are named in the table, upon
which their switchboards are not ready. They count again as soon as they answer as the others do.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from loraline_api.routing import VersionPhase, VersionState
from loraline_operator.observed_deployment import ServingPod

Proof = tuple[ServingPod, VersionState]

LATEST = datetime.max.replace(tzinfo=UTC)


def odd_ones(pods: Sequence[ServingPod]) -> dict[str, str]:
    """Why a pod is not believed, by its name."""
    proofs: dict[tuple[str, str, str], list[Proof]] = {}
    for pod in pods:
        if pod.is_deleting or pod.state is None:
            continue
        for state in pod.state.versions:
            if state.phase is VersionPhase.PROVED and state.answer is not None:
                proofs.setdefault((pod.template, state.route, state.version), []).append((pod, state))
    found: dict[str, str] = {}
    for (_, route, version), of_version in sorted(proofs.items(), key=lambda item: item[0]):
        believed = _believed(of_version)
        trusted = {pod.name for pod, _ in believed}
        for pod, state in of_version:
            if pod.name not in trusted:
                found.setdefault(pod.name, _message(pod, state, believed, f"{route}@{version}"))
    return found


def _believed(proofs: Sequence[Proof]) -> list[Proof]:
    """The largest group that agrees; of equally large ones, the one that proved first."""
    groups: list[list[Proof]] = []
    for pod, state in sorted(proofs, key=lambda proof: (proof[1].proved_at or LATEST, proof[0].name)):
        agreeing = (group for group in groups if _agree(group[0][1], state))
        group = next(agreeing, None)
        if group is None:
            groups.append([(pod, state)])
        else:
            group.append((pod, state))
    return max(groups, key=len)  # the first of the longest


def _agree(one: VersionState, other: VersionState) -> bool:
    return one.answer is not None and other.answer is not None and one.answer.agrees_with(other.answer)


def _message(pod: ServingPod, state: VersionState, believed: Sequence[Proof], name: str) -> str:
    other, theirs = believed[0]
    return (
        f"pod {pod.name} answers the probe of {name} with fingerprint {state.fingerprint}, pod {other.name} with "
        f"{theirs.fingerprint}: it gets no requests; delete it to have another one made"
    )

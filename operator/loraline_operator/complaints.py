"""What events alone tell of Jobs and pods: why pods do not start (Kubernetes), and why a Job was stopped (Kueue).

Statuses tell neither of missing Secrets and of quotas, nor of who was preferred. A watch on each reason; the last words
about each Job and pod are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from loraline_api.conditions import Reason
from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.observed_finetune import Stuck
from loraline_operator.reflector import Selection

MAX_KEPT = 20_000
"""Most Jobs and pods about which words are kept; the oldest go first."""

STOPPED = "Stopped"
"""Kueue's reason when it has stopped a Job; it posts the event after its last change of the Job."""

SELECTIONS = (
    Selection(Kind.EVENT, fields=f"reason={STOPPED},involvedObject.kind=Job"),
    Selection(Kind.EVENT, fields="reason=FailedCreate,involvedObject.kind=Job"),
    Selection(Kind.EVENT, fields="reason=FailedMount,involvedObject.kind=Pod"),
)


class Complaints:
    """The last words about each Job and each pod; a sink of reflectors."""

    def __init__(self, owner_of: Callable[[str, str], Ref | None], changed: Callable[[Ref], None]) -> None:
        self._owner_of = owner_of
        self._changed = changed
        self._words: OrderedDict[tuple[str, bool], tuple[str, str]] = OrderedDict()

    def about(self, uid: str) -> Stuck | None:
        """Why this Job gets no pod, or this pod no volumes."""
        _, message = self._words.get((uid, False), ("", None))
        if message is None:
            return None
        return Stuck(Reason.UNSCHEDULABLE if "exceeded quota" in message else Reason.CONFIG_MISSING, message)

    def stopped(self, uid: str) -> str | None:
        """Why Kueue stopped this Job the last time."""
        return self._words.get((uid, True), ("", None))[1]

    def seen(self, manifest: Manifest) -> None:
        """An event was posted or came again."""
        about = manifest["involvedObject"]
        words = (manifest.get("lastTimestamp") or manifest.get("eventTime") or "", manifest.get("message", ""))
        key = about["uid"], manifest.get("reason") == STOPPED
        if words <= self._words.get(key, ("", "")):
            return
        self._words[key] = words
        self._words.move_to_end(key)
        if len(self._words) > MAX_KEPT:
            self._words.popitem(last=False)
        owner = self._owner_of(about.get("namespace", ""), about["name"])
        if owner is not None:
            self._changed(owner)

    def gone(self, manifest: Manifest) -> None:
        """Events go after an hour; what they said still holds while the pod is stuck or the Job waits."""

    def keep_only(self, namespace: str | None, names: set[tuple[str, str]], version: int) -> None:
        """As `gone`."""

"""Why pods do not start, as Kubernetes' events say it: statuses do not tell of missing Secrets and of quotas.

Two watches, on the reasons `FailedCreate` and `FailedMount`; the last words about each Job and pod are kept.
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

SELECTIONS = (
    Selection(Kind.EVENT, fields="reason=FailedCreate,involvedObject.kind=Job"),
    Selection(Kind.EVENT, fields="reason=FailedMount,involvedObject.kind=Pod"),
)


class Complaints:
    """The last complaint about each Job and each pod; a sink of a reflector."""

    def __init__(self, owner_of: Callable[[str, str], Ref | None], changed: Callable[[Ref], None]) -> None:
        self._owner_of = owner_of
        self._changed = changed
        self._words: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def about(self, uid: str) -> Stuck | None:
        """Why this Job gets no pod, or this pod no volumes."""
        if uid not in self._words:
            return None
        message = self._words[uid][1]
        return Stuck(Reason.UNSCHEDULABLE if "exceeded quota" in message else Reason.CONFIG_MISSING, message)

    def seen(self, manifest: Manifest) -> None:
        """An event was posted or came again."""
        about = manifest["involvedObject"]
        words = (manifest.get("lastTimestamp") or manifest.get("eventTime") or "", manifest.get("message", ""))
        if words <= self._words.get(about["uid"], ("", "")):
            return
        self._words[about["uid"]] = words
        self._words.move_to_end(about["uid"])
        if len(self._words) > MAX_KEPT:
            self._words.popitem(last=False)
        owner = self._owner_of(about.get("namespace", ""), about["name"])
        if owner is not None:
            self._changed(owner)

    def gone(self, manifest: Manifest) -> None:
        """Events go after an hour; what they said still holds while the pod is stuck."""

    def keep_only(self, namespace: str | None, names: set[tuple[str, str]], version: int) -> None:
        """As `gone`."""

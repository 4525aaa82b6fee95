"""A cluster in memory for planners: applies plans, and plays Job controller, kubelet and garbage collector by hand.

Only what plans can see is modelled; the real API server is in tests/operator.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from loraline_operator import observed_finetune, plan_finetune
from loraline_operator.actions import Action, Create, Delete, Kind, Patch
from loraline_operator.observed_finetune import Job, ObservedFineTune, Pod, Snapshot
from unit.operator.builders import NOW, SETTINGS, FineTuneBuilder, a_finetune, an_outcome

ROUNDS = 30
"""Passes after which a plan has to be at rest."""


@dataclass
class World:
    """One fine-tune and its children."""

    finetune: FineTuneBuilder = field(default_factory=a_finetune)
    jobs: dict[str, Job] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    now: datetime = NOW
    made: int = 0
    created: list[str] = field(default_factory=list)
    """Names of Jobs in the order of their creation."""

    def observe(self) -> ObservedFineTune:
        """What an observer would read."""
        return ObservedFineTune(
            jobs=tuple(self.jobs.values()), pods=tuple(self.pods.values()), snapshots=tuple(self.snapshots.values())
        )

    def reconcile(self, writes: int | None = None) -> bool:
        """One pass that crashes after so many writes; True when it wrote nothing."""
        object = self.finetune.object()
        plan = plan_finetune.plan(object, self.observe(), SETTINGS, self.now)
        left = len(plan.actions) + 1 if writes is None else writes
        for action in plan.actions[:left]:
            self._apply(action)
        is_new = plan.status is not None and plan.status != object.status
        if is_new and plan.status is not None and left > len(plan.actions):
            self.finetune = self.finetune.with_status(plan.status)
        return not plan.actions and not is_new

    def settle(self) -> None:
        """Passes until nothing is written, with deleted pods ending and time going on in between."""
        for _ in range(ROUNDS):
            self.end_deleted_pods()
            if self.reconcile():
                return
        raise AssertionError("the plan is never at rest")

    def start_pods(self) -> None:
        """The Job controller makes a pod for each live Job that has none, and the kubelet runs it."""
        for job in self.jobs.values():
            if job.is_live and not any(pod.is_live for pod in self.pods.values() if pod.job_name == job.name):
                self.made += 1
                name = f"{job.name}-{self.made}"
                self.pods[name] = Pod(
                    name, f"uid-{self.made}", job.name, "Running", created=self.now, owner_uid=job.uid
                )

    def end_pod(self, code: int) -> None:
        """The running pod ends, and its Job with it."""
        for pod in list(self.pods.values()):
            job = self.jobs.get(pod.job_name)
            if not pod.is_live or pod.is_deleting or job is None:
                continue
            message = an_outcome(job.run_id, code, "why").encode().decode()
            phase = "Failed" if code else "Succeeded"
            self.pods[pod.name] = replace(pod, phase=phase, exit_code=code, termination_message=message)
            end = "BackoffLimitExceeded" if code else "CompletionsReached"
            self.jobs[job.name] = replace(job, end=end, has_failed=bool(code), ended_at=self.now)

    def delete_job(self, name: str) -> None:
        """Somebody deletes a Job; its pods get their SIGTERM and live on for a while."""
        self.jobs.pop(name, None)
        for pod in list(self.pods.values()):
            if pod.job_name == name and pod.is_live:
                self.pods[pod.name] = replace(pod, is_deleting=True)
            elif pod.job_name == name:
                del self.pods[pod.name]

    def end_deleted_pods(self) -> None:
        """Pods that are being deleted end."""
        self.pods = {name: pod for name, pod in self.pods.items() if not pod.is_deleting}

    def wait(self, seconds: int) -> None:
        """Time passes."""
        self.now += timedelta(seconds=seconds)

    def _apply(self, action: Action) -> None:
        match action:
            case Create(ref, manifest):
                metadata = {**manifest["metadata"], "uid": f"uid-of-{ref.name}-{self.made}", "resourceVersion": "1"}
                body = {**manifest, "metadata": metadata}
                self.made += 1
                if ref.kind is Kind.JOB and ref.name not in self.jobs:
                    self.jobs[ref.name] = observed_finetune.job(body)
                    self.created.append(ref.name)
                elif ref.kind is Kind.CONFIG_MAP and ref.name not in self.snapshots:
                    self.snapshots[ref.name] = observed_finetune.snapshot(body)
            case Delete(ref, uid):
                if ref.kind is Kind.JOB and ref.name in self.jobs and self.jobs[ref.name].uid == uid:
                    self.delete_job(ref.name)
                elif ref.kind is Kind.CONFIG_MAP:
                    self.snapshots.pop(ref.name, None)
            case Patch(_, patch):
                self.finetune = self.finetune.with_metadata(**patch["metadata"])

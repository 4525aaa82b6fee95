"""A cluster in memory for planners: applies plans, and plays Job controller, kubelet and garbage collector by hand.

Only what plans can see is modelled; the real API server is in tests/operator.
"""

from __future__ import annotations

import json
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
    succeeded: set[str] = field(default_factory=set)
    """Runs that were seen as Succeeded."""
    is_gone: bool = False
    """The object was deleted and has lost its finalizer."""
    may_fail: bool = False
    """Something happened that no retry mends."""
    story: tuple[str, ...] = ()
    """What happened, for the message of a test that fails."""

    def copy(self) -> World:
        """Another world with the same things in it."""
        return replace(
            self,
            jobs=dict(self.jobs),
            pods=dict(self.pods),
            snapshots=dict(self.snapshots),
            created=list(self.created),
            succeeded=set(self.succeeded),
        )

    def key(self) -> str:
        """The same for worlds in which the same things are."""
        things = (self.jobs, self.pods, self.snapshots, self.succeeded, self.now, self.is_gone, self.may_fail)
        return f"{json.dumps(self.finetune.manifest, sort_keys=True)} {things}"

    @property
    def phase(self) -> str:
        """The phase in the status."""
        return str(self.finetune.manifest.get("status", {}).get("phase", ""))

    def observe(self) -> ObservedFineTune:
        """What an observer would read."""
        return ObservedFineTune(
            jobs=tuple(self.jobs.values()), pods=tuple(self.pods.values()), snapshots=tuple(self.snapshots.values())
        )

    def reconcile(self, writes: int | None = None) -> bool:
        """One pass that crashes after so many writes; True when it wrote nothing."""
        if self.is_gone:
            return True
        object = self.finetune.object()
        plan = plan_finetune.plan(object, self.observe(), SETTINGS, self.now)
        left = len(plan.actions) + 1 if writes is None else writes
        for action in plan.actions[:left]:
            self._apply(action)
        is_new = plan.status is not None and plan.status != object.status
        if is_new and plan.status is not None and left > len(plan.actions) and not self.is_gone:
            self.finetune = self.finetune.with_status(plan.status)
        self.check()
        return not plan.actions and not is_new

    def check(self) -> None:
        """What holds at every moment: at most one live attempt, and a success is never undone."""
        pods = [pod.name for pod in self.pods.values() if pod.is_live]
        jobs = [job.name for job in self.jobs.values() if job.is_live]
        assert len(pods) <= 1, (self.story, pods)
        assert len(jobs) <= 1, (self.story, jobs)
        owners = {pod.job_name for pod in self.pods.values() if pod.is_live and not pod.is_deleting}
        assert owners <= set(jobs), (self.story, owners, jobs)
        status = self.finetune.manifest.get("status", {})
        run_id = status.get("run", {}).get("id")
        if self.phase == "Succeeded":
            assert "adapter" in status, self.story
            self.succeeded.add(run_id)
        elif status.get("observedGeneration") == self.finetune.manifest["metadata"]["generation"]:
            is_undone = run_id in self.succeeded and self.finetune.object().spec is not None
            assert not is_undone, (self.story, run_id, self.phase)

    def settle(self) -> None:
        """Passes until nothing is written, with deleted pods ending and time going on in between."""
        for _ in range(ROUNDS):
            self.end_deleted_pods()
            if self.reconcile():
                return
        raise AssertionError(f"the plan is never at rest: {self.story}")

    def play(self) -> None:
        """The kubelet runs every pod to its good end until the run has ended, however long it has to wait."""
        for _ in range(ROUNDS):
            self.settle()
            if self.phase in ("Succeeded", "Failed"):
                return
            self.start_pods()
            self.end_pod(0)
            self.wait(60)
        raise AssertionError(f"the run never ends: {self.story}")

    def delete(self) -> None:
        """Somebody deletes the fine-tune."""
        if "deletionTimestamp" not in self.finetune.manifest["metadata"]:
            self.finetune = self.finetune.with_metadata(deletionTimestamp=self.now.isoformat())

    def lose_jobs(self) -> None:
        """Somebody deletes the live Jobs."""
        for name, job in list(self.jobs.items()):
            if job.is_live:
                self.delete_job(name)

    def lose_pods(self) -> None:
        """Somebody deletes the pods: their Jobs fail, as they replace none."""
        for pod in list(self.pods.values()):
            job = self.jobs.get(pod.job_name)
            if pod.is_live and job is not None and job.is_live:
                del self.pods[pod.name]
                self.jobs[job.name] = replace(job, end="BackoffLimitExceeded", has_failed=True, ended_at=self.now)

    def exceed_deadline(self) -> bool:
        """Live Jobs that have a pod run over their deadline; whether there was one."""
        late = [self.jobs[pod.job_name] for pod in self.pods.values() if pod.is_live and pod.job_name in self.jobs]
        for job in late:
            self.delete_job(job.name)
            self.end_deleted_pods()
            self.jobs[job.name] = replace(job, end="DeadlineExceeded", has_failed=True, ended_at=self.now)
        return bool(late)

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

    def _check_is_told(self, job: Job) -> None:
        """An attempt's end that is in no status yet is in its Job alone; that of an abandoned run does not matter."""
        object = self.finetune.object()
        status = object.status
        is_current = status.run is not None and (status.run.id, status.run.attempt) == (job.run_id, job.attempt)
        is_current = is_current and status.observed_generation == object.meta.generation
        if is_current and not job.is_live and "deletionTimestamp" not in self.finetune.manifest["metadata"]:
            assert status.run is not None
            assert status.run.completion_time is not None, (self.story, job.name)

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
                job = self.jobs.get(ref.name) if ref.kind is Kind.JOB else None
                if job is not None and job.uid == uid:
                    self._check_is_told(job)
                    self.delete_job(ref.name)
                elif ref.kind is Kind.CONFIG_MAP:
                    self.snapshots.pop(ref.name, None)
            case Patch(_, patch):
                self.finetune = self.finetune.with_metadata(**patch["metadata"])
                metadata = self.finetune.manifest["metadata"]
                self.is_gone = "deletionTimestamp" in metadata and not metadata["finalizers"]

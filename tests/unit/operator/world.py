"""A cluster in memory for planners: applies plans, and plays Job controller, kubelet and garbage collector by hand.

Only what plans can see is modelled; the real API server is in tests/operator.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from loraline_api.conditions import Reason
from loraline_operator import observed_finetune, plan_finetune
from loraline_operator.actions import Action, Create, Delete, Kind, Patch, Ref
from loraline_operator.observed_finetune import GangService, Job, ObservedFineTune, Pod, Snapshot, Stuck
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
    services: dict[str, GangService] = field(default_factory=dict)
    room: int = 64
    """Pods that get a node."""
    now: datetime = NOW
    made: int = 0
    created: list[str] = field(default_factory=list)
    """Names of Jobs in the order of their creation."""
    succeeded: set[str] = field(default_factory=set)
    """Runs that were seen as Succeeded."""
    is_gone: bool = False
    """The object was deleted, and no finalizer holds it."""
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
            services=dict(self.services),
            created=list(self.created),
            succeeded=set(self.succeeded),
        )

    def key(self) -> str:
        """The same for worlds in which the same things are."""
        things = (self.jobs, self.pods, self.snapshots, self.services, self.succeeded)
        flags = (self.room, self.now, self.is_gone, self.may_fail)
        return f"{json.dumps(self.finetune.manifest, sort_keys=True)} {things} {flags}"

    @property
    def phase(self) -> str:
        """The phase in the status."""
        return str(self.finetune.manifest.get("status", {}).get("phase", ""))

    def observe(self) -> ObservedFineTune:
        """What an observer would read."""
        return ObservedFineTune(
            jobs=tuple(self.jobs.values()),
            pods=tuple(self.pods.values()),
            snapshots=tuple(self.snapshots.values()),
            services=tuple(self.services.values()),
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
        is_at_rest = not plan.actions and not is_new
        if is_at_rest and not object.meta.is_deleting and object.spec is not None:
            gangs = {job.run_id for job in self.attempts if job.is_live and job.nodes > 1}
            assert {service.run_id for service in self.services.values()} == gangs, (self.story, self.services)
        return is_at_rest

    @property
    def attempts(self) -> list[Job]:
        """The Jobs of attempts."""
        return [job for job in self.jobs.values() if job.owner_uid is not None]

    def check(self) -> None:
        """What holds at every moment: at most one live attempt, and a success is never undone."""
        pods = [pod for pod in self.pods.values() if pod.is_live]
        jobs = {job.name: job for job in self.attempts if job.is_live}
        assert len(jobs) <= 1, (self.story, jobs)
        assert len({pod.job_name for pod in pods}) <= 1, (self.story, pods)
        owners = {pod.job_name for pod in pods if not pod.is_deleting}
        assert owners <= set(jobs), (self.story, owners, jobs)
        status = self.finetune.manifest.get("status", {})
        run_id = status.get("run", {}).get("id")
        if self.phase == "Succeeded":
            assert "adapter" in status, self.story
            self.succeeded.add(run_id)
        elif (
            self.phase != "Deleting"
            and status.get("observedGeneration") == self.finetune.manifest["metadata"]["generation"]
        ):
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
            self.room = 64
            self.admit()
            self.start_pods()
            self.end_pod(0)
            self.wait(60)
        raise AssertionError(f"the run never ends: {self.story}")

    def delete(self) -> None:
        """Somebody deletes the fine-tune; what it owns goes with it."""
        if "deletionTimestamp" in self.finetune.manifest["metadata"]:
            return
        self.finetune = self.finetune.with_metadata(deletionTimestamp=self.now.isoformat())
        if not self.finetune.object().meta.finalizers:
            self._go()

    def lose_jobs(self) -> None:
        """Somebody deletes the live Jobs."""
        for job in self.attempts:
            if job.is_live:
                self.delete_job(job.name)

    def lose_pods(self) -> None:
        """Somebody deletes the pods: their Jobs fail, as they replace none."""
        for job in self.attempts:
            pods = [pod for pod in self.pods.values() if pod.job_name == job.name and pod.is_live]
            if job.is_live and not job.is_suspended and pods:
                self._end_others(job)
                self.jobs[job.name] = replace(job, end="BackoffLimitExceeded", has_failed=True, ended_at=self.now)

    def exceed_deadline(self) -> bool:
        """Live Jobs that have a pod run over their deadline; whether there was one."""
        late = [
            job
            for job in self.attempts
            if job.is_live and not job.is_suspended and any(pod.job_name == job.name for pod in self.pods.values())
        ]
        for job in late:
            self._end_others(job)
            self.jobs[job.name] = replace(job, end="DeadlineExceeded", has_failed=True, ended_at=self.now)
        return bool(late)

    def start_pods(self) -> None:
        """The Job controller makes the pods of attempts, and the kubelet runs those that get a node."""
        for job in self.attempts:
            if not job.is_live or job.is_suspended:
                continue
            self.jobs[job.name] = replace(job, start_time=job.start_time or self.now)
            live = {pod.index: pod for pod in self.pods.values() if pod.is_live and pod.job_name == job.name}
            for index in range(job.nodes):
                pod = live.get(index) or self._pod(job, index)
                if pod.phase == "Pending" and index < self.room and not pod.is_deleting:
                    pod = replace(pod, phase="Running", has_node=True, stuck=None)
                self.pods[pod.name] = pod

    def _pod(self, job: Job, index: int) -> Pod:
        self.made += 1
        stuck = Stuck(Reason.UNSCHEDULABLE, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
        name = f"{job.name}-{index}-{self.made}" if job.nodes > 1 else f"{job.name}-{self.made}"
        return Pod(
            name,
            f"uid-{self.made}",
            job.name,
            "Pending",
            stuck=stuck,
            created=self.now,
            owner_uid=job.uid,
            index=index,
            has_node=False,
        )

    def end_pod(self, code: int) -> None:
        """The running pods end, and their Job with them; when one of several fails, the others are deleted."""
        for job in self.attempts:
            running = [
                pod
                for pod in self.pods.values()
                if pod.job_name == job.name and pod.phase == "Running" and not pod.is_deleting
            ]
            if not job.is_live or not running or (code == 0 and len(running) < job.nodes):
                continue
            message = an_outcome(job.run_id, code, "why").encode().decode()
            phase = "Failed" if code else "Succeeded"
            for pod in running[:1] if code else running:
                self.pods[pod.name] = replace(pod, phase=phase, exit_code=code, termination_message=message)
            self._end_others(job)
            end = "BackoffLimitExceeded" if code else "CompletionsReached"
            self.jobs[job.name] = replace(job, end=end, has_failed=bool(code), ended_at=self.now)

    def _end_others(self, job: Job) -> None:
        for name in [pod.name for pod in self.pods.values() if pod.job_name == job.name and pod.is_live]:
            del self.pods[name]

    def admit(self) -> None:
        """Kueue lets in what waits."""
        for job in self.attempts:
            if job.is_live and job.is_suspended and job.queue is not None:
                self.jobs[job.name] = replace(job, is_suspended=False, start_time=self.now)

    def preempt(self) -> None:
        """Kueue stops what it had let in; the pods get their SIGTERM."""
        for job in self.attempts:
            if job.is_live and not job.is_suspended and job.queue is not None:
                self.jobs[job.name] = replace(job, is_suspended=True, start_time=None)
                for pod in list(self.pods.values()):
                    if pod.job_name == job.name and pod.is_live:
                        self.pods[pod.name] = replace(pod, is_deleting=True)

    def end_cleanup(self, code: int) -> None:
        """The Job that deletes the output ends."""
        for job in list(self.jobs.values()):
            if job.owner_uid is None and job.is_live:
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

    def _go(self) -> None:
        """The object goes, and the garbage collector takes what it owns."""
        self.is_gone = True
        for job in self.attempts:
            self.delete_job(job.name)
        self.snapshots, self.services = {}, {}

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
                elif ref.kind is Kind.SERVICE and ref.name not in self.services:
                    self.services[ref.name] = observed_finetune.service(body)
            case Delete(ref, uid):
                job = self.jobs.get(ref.name) if ref.kind is Kind.JOB else None
                if job is not None and job.uid == uid:
                    self._check_is_told(job)
                    self.delete_job(ref.name)
                elif ref.kind is Kind.CONFIG_MAP:
                    self.snapshots.pop(ref.name, None)
                elif ref.kind is Kind.SERVICE:
                    self.services.pop(ref.name, None)
            case Patch(Ref(Kind.JOB, _, name), patch):
                if name in self.jobs:
                    self.jobs[name] = replace(self.jobs[name], deadline_s=patch["spec"]["activeDeadlineSeconds"])
            case Patch(_, patch):
                self.finetune = self.finetune.with_metadata(**patch["metadata"])
                meta = self.finetune.object().meta
                if meta.is_deleting and not meta.finalizers:
                    self._go()

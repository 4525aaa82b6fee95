"""Objects in every state that GitOps tools may see, as the planners leave them, and the health each has to have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple

from loraline_api import API_VERSION, crd
from loraline_api.conditions import Reason
from loraline_api.outcome import ExitCode
from loraline_api.policy import Policy
from loraline_operator import naming
from loraline_operator.actions import Kind, Manifest
from loraline_operator.observed_claims import Claim
from loraline_operator.observed_finetune import DataProblem, MissingData, Stuck
from unit.operator.builders import (
    NOW,
    FineTuneBuilder,
    a_finetune,
    a_pod,
    a_snapshot,
    an_ended_pod,
    an_outcome,
    complete,
    failed,
    seen,
)
from unit.operator.deployment.serving_world import FIRST, SECOND, World, uri
from unit.operator.planning import after, the_job

PROGRESSING, HEALTHY, DEGRADED, SUSPENDED = "Progressing", "Healthy", "Degraded", "Suspended"
KSTATUS = {PROGRESSING: "InProgress", HEALTHY: "Current", DEGRADED: "Failed", SUSPENDED: "InProgress"}
UNSEEN = "the operator has not seen this spec yet"
DELETED_AT = "2026-11-22T12:30:00Z"
DELETING = (PROGRESSING, "being deleted", "", "Terminating")


class State(NamedTuple):
    """An object, its health in Argo CD's words, and where message and kstatus are not as that health suggests."""

    manifest: Manifest
    health: str
    message: str | None = None
    condition: str = "Ready"
    kstatus_name: str | None = None

    @property
    def kstatus(self) -> str:
        """The status that kstatus computes."""
        return self.kstatus_name or KSTATUS[self.health]

    @property
    def told(self) -> str:
        """The message that Argo CD shows."""
        if self.message is not None:
            return self.message
        (found,) = [c for c in self.manifest["status"]["conditions"] if c["type"] == self.condition]
        return str(found["message"])


def finetunes() -> dict[str, State]:
    """LoraFineTunes by the name of their state."""
    new = a_finetune()
    started = after(new, seen())
    job = the_job(new)
    running = after(started, seen(job, a_pod(job), a_snapshot(job.run_id)))
    done = after(running, seen(complete(job), an_ended_pod(job, 0, an_outcome(job.run_id))))
    no_retries = new.with_spec("retries", 0)
    last = the_job(no_retries)
    broken = seen(failed(last), an_ended_pod(last, int(ExitCode.UNEXPECTED_ERROR)))
    out_of_memory = an_ended_pod(job, int(ExitCode.KILLED), is_out_of_memory=True)
    stuck = a_pod(job, "Pending", stuck=Stuck(Reason.UNSCHEDULABLE, "0/3 nodes are available: 3 Insufficient gpu"))
    held = after(running.with_spec("suspend", True), seen(a_snapshot(job.run_id)))
    other = running.with_spec("training.seed", 7)
    two = new.with_spec("compute.nodes", 2)
    gang = replace(the_job(two), nodes=2, start_time=NOW)
    half = seen(gang, a_pod(gang, "Pending", has_node=False, stuck=stuck.stuck))
    placing = after(two, seen())
    queue = new.with_metadata(labels={naming.KUEUE_QUEUE_LABEL: "gpus"})
    admitted = replace(the_job(queue), queue="gpus")
    waiting = seen(replace(admitted, is_suspended=True))
    in_queue = after(queue, seen())
    training = after(in_queue, seen(admitted, a_pod(admitted)))
    both = done.with_spec("output.deletionPolicy", "Delete").with_metadata(finalizers=[naming.FINALIZER])
    deleting = both.with_metadata(deletionTimestamp=DELETED_AT)
    in_foreground = running.with_metadata(finalizers=["foregroundDeletion"], deletionTimestamp=DELETED_AT)
    from_map = new.with_spec("dataset.train", {"uri": "configmap://tickets/train"})
    strict = Policy.model_validate({"limits": {"rank": 8}})
    one_gpu = Policy.model_validate({"limits": {"gpus": 1}})
    taken = (Claim("first", NOW, 1, holds=True, jobs=("first-1",)), Claim("tickets", NOW, 1, waits=True))
    large = new.with_spec("baseModel.uri", "hf://Qwen/Qwen2.5-72B").with_spec("compute", {"gpuType": "L4"})
    no_data = {"train": MissingData(DataProblem.NO_CONFIG_MAP)}
    return {
        "unseen": State(_finetune(new) | {"status": crd.UNSEEN}, PROGRESSING, UNSEEN),
        "waiting-for-data": State(_finetune(after(from_map, seen(data=no_data))), PROGRESSING),
        "invalid": State(_finetune(after(new.with_spec("training.epochs", "many"), seen())), DEGRADED),
        "refused-by-policy": State(_finetune(after(new, seen(), policy=strict)), DEGRADED),
        "gpu-too-small": State(_finetune(after(large, seen())), DEGRADED),
        "waiting-for-gpus": State(_finetune(after(new, replace(seen(), claims=taken), policy=one_gpu)), PROGRESSING),
        "pending": State(_finetune(started), PROGRESSING),
        "queued": State(_finetune(after(in_queue, waiting)), PROGRESSING),
        "preempted": State(_finetune(after(training, waiting)), PROGRESSING),
        "placing-nodes": State(_finetune(after(placing, half)), PROGRESSING),
        "gave-nodes-back": State(_finetune(after(placing, half, NOW + timedelta(seconds=600))), PROGRESSING),
        "unschedulable": State(_finetune(after(started, seen(job, stuck))), PROGRESSING),
        "running": State(_finetune(running), PROGRESSING),
        "retrying": State(_finetune(after(running, seen(failed(job), out_of_memory))), PROGRESSING),
        "succeeded": State(_finetune(done), HEALTHY),
        "failed": State(_finetune(after(after(no_retries, seen()), broken)), DEGRADED),
        "suspended": State(_finetune(held), SUSPENDED),
        "resumed": State(_finetune(after(held.with_spec("suspend", False), seen(a_snapshot(job.run_id)))), PROGRESSING),
        "edited": State(_finetune(done.with_spec("training.seed", 7)), PROGRESSING, UNSEEN),
        "next-run": State(_finetune(after(other, seen(a_snapshot(job.run_id)))), PROGRESSING),
        "deleting-output": State(_finetune(after(deleting, seen())), *DELETING),
        "deleting": State(_finetune(in_foreground), *DELETING),
    }


def deployments() -> dict[str, State]:
    """AdapterDeployments by the name of their state."""

    def world(*steps: Callable[[World], Any], version: str | None = FIRST, **spec: Any) -> World:
        made = World(**spec)
        made.tune(version)
        made.settle()
        for step in steps:
            step(made)
        return made

    def look(made: World) -> None:
        made.reconcile()

    def crash(made: World) -> None:
        made.pods[0].answers = False
        made.pods[0].crash = "container server ended with exit code 1 and is started again"

    starting = World()
    starting.tune(FIRST)
    starting.reconcile()
    lost = World()
    lost.finetunes = {}
    lost.settle()
    refused = world(lambda made: setattr(made, "refused", frozenset({SECOND})), lambda made: made.tune(SECOND))
    refused.settle()
    invalid = world(lambda made: made.edit(replicas="many"), look)
    edited = world(lambda made: made.edit(replicas=2))
    scaled = world(lambda made: made.edit(replicas=0))
    scaled.settle()
    deleting = world()
    deleting.manifest["metadata"]["deletionTimestamp"] = DELETED_AT
    rolling = world(lambda made: made.tune(SECOND), lambda made: made.check())
    checking = world(lambda made: made.tune(SECOND), look)
    return {
        "unseen": State(_deployment(World()) | {"status": crd.UNSEEN}, PROGRESSING, UNSEEN),
        "starting": State(_deployment(starting), PROGRESSING),
        "ready": State(_deployment(world()), HEALTHY),
        "waiting-for-adapter": State(_deployment(world(version=None, storage={})), PROGRESSING),
        "rolling-out": State(_deployment(rolling), PROGRESSING, condition="Progressing"),
        "checking": State(_deployment(checking), PROGRESSING, condition="Progressing"),
        **_of_many(),
        "refused-version": State(_deployment(refused), DEGRADED),
        "finetune-not-found": State(_deployment(lost), PROGRESSING),
        "crashing-pod": State(_deployment(world(crash, look)), DEGRADED, kstatus_name="InProgress"),
        "created-at-zero": State(_deployment(world(pods=0)), HEALTHY),
        "scaled-to-zero": State(_deployment(scaled), HEALTHY),
        "invalid": State(_deployment(invalid), DEGRADED),
        "edited": State(_deployment(edited), PROGRESSING, UNSEEN),
        "deleting": State(_deployment(deleting), *DELETING),
    }


def _of_many() -> dict[str, State]:
    """Deployments of several routes or pods."""
    full = World(server={"maxLoras": 2}, adapters=[{"name": f"r{number}", "uri": uri(FIRST)} for number in range(4)])
    full.settle()
    label = {"serve": "support"}
    selecting = World(adapters=[], adapterSelector={"matchLabels": label}, storage={})
    selecting.tune(FIRST, labels=label)
    selecting.tune(SECOND, name="large", rank=128, labels=label)
    selecting.settle()
    odd = World(pods=3)
    odd.tune(FIRST)
    odd.settle()
    odd.pods[1].seed = 1
    odd.settle()
    return {
        "no-free-slot": State(_deployment(full), DEGRADED),
        "selected-trouble": State(_deployment(selecting), HEALTHY),
        "replicas-disagree": State(_deployment(odd), DEGRADED, kstatus_name="InProgress"),
    }


def _finetune(builder: FineTuneBuilder) -> Manifest:
    return {"apiVersion": API_VERSION, "kind": str(Kind.FINE_TUNE), **builder.manifest}


def _deployment(world: World) -> Manifest:
    return {"apiVersion": API_VERSION, "kind": str(Kind.ADAPTER_DEPLOYMENT), **world.manifest}

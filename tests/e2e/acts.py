"""What is done to trainings in the middle, each to a fine-tune of its own, from its start to its end.

Acts share nothing but the cluster, so that several go on at once. What has to come of them is said in
`test_interruptions`.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import NamedTuple

from demo import store
from demo.kubectl import KubectlError, Object, condition, is_true, wait_for
from e2e import stage as builders
from e2e.stage import LONG_STEPS, Stage, trainer_of

DEADLINE_S = 30
TOO_LITTLE = "64Mi"
"""Less than importing PyTorch takes."""

SHARED = {
    "uri": f"s3://{store.ADAPTER_BUCKET}/shared",
    "endpoint": store.S3_ENDPOINT,
    "secretRef": {"name": store.SECRET},
    "deletionPolicy": "Delete",
}
TAKE_ALL_MEMORY = """
import os, pathlib, time
for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    if b"loraline_trainer" in file.read_bytes() and file.parent.name != str(os.getpid()):
        file.with_name("oom_score_adj").write_text("1000")
for _ in range(16):
    if os.fork() == 0:
        held = bytearray(256 << 20)
        time.sleep(60)
time.sleep(60)
"""
"""For processes beside the trainer: they take all memory, and the kernel kills the largest, which is the trainer."""

Listing = list[tuple[str, int]]
"""Keys and sizes of objects in S3."""


class Deleted(NamedTuple):
    """A fine-tune that was deleted with its output, and what lay at that output before and after."""

    finetune: Object
    before: Listing
    after: Listing


class Held(NamedTuple):
    """The run before an edit that suspends as well, what was held then, and the end once it was let go."""

    old: Object
    held: Object
    end: Object


def delete_its_job(stage: Stage) -> tuple[str, str, Object]:
    """Name and uid of the deleted Job, and the end."""
    stage.start("job-deleted")
    ((name, uid),) = stage.jobs("job-deleted").items()
    stage.kubectl.run("delete", "job", name)
    return name, uid, stage.completed("job-deleted")


def delete_its_pod(stage: Stage) -> Object:
    """SIGTERM: the pod saves where it stands, and has no retries to lose."""
    stage.start("pod-deleted")
    stage.kubectl.run("delete", "pod", "--selector", "loraline.dev/finetune=pod-deleted")
    return stage.completed("pod-deleted")


def kill_its_trainer(stage: Stage) -> Object:
    """SIGKILL: what was done since the last checkpoint is done again."""
    stage.start("killed", saved_step=20)
    _kill_trainer(stage, "killed")
    return stage.completed("killed")


def take_its_memory(stage: Stage) -> tuple[Object, Object]:
    """The pod that the kernel killed, and the end."""
    stage.start("out-of-memory", saved_step=20, retries=1)
    (pod,) = stage.pods("out-of-memory")
    name = pod["metadata"]["name"]
    with contextlib.suppress(KubectlError):  # it ends with the container
        stage.kubectl.run("exec", name, "--", "python3", "-c", TAKE_ALL_MEMORY)
    end = stage.completed("out-of-memory")
    return stage.kubectl.get("pod", name) or {}, end


def give_it_too_little_memory(stage: Stage) -> tuple[Object, Object]:
    """The end of two attempts with too little, and the end once there is enough."""
    name = "too-little-memory"
    compute = {"gpus": 0, "requests": {"cpu": "100m", "memory": TOO_LITTLE}}
    stage.kubectl.apply(builders.data(name, builders.GOOD_DATA), builders.finetune(name, compute=compute, retries=1))
    failed = stage.ended(name)
    stage.kubectl.apply(builders.finetune(name, retries=1))
    stage.wait("the run to go on", lambda: (condition(stage.finetune(name), "Failed") or {})["status"] == "False")
    return failed, stage.completed(name)


def let_its_deadline_pass_in_a_retry(stage: Stage) -> Object:
    """The end of a second attempt that has retries left and no time."""
    name = "deadline"
    recipe = builders.finetune(name, max_steps=100_000, retries=5, activeDeadlineSeconds=DEADLINE_S)
    stage.kubectl.apply(builders.data(name, builders.GOOD_DATA), recipe)
    _kill_trainer(stage, name)
    return stage.ended(name)


def edit_it(stage: Stage) -> tuple[Object, Object]:
    """The run before an edit, and the end of the one after it."""
    old = stage.start("edited")
    stage.kubectl.apply(builders.finetune("edited", max_steps=2))
    return old, stage.completed("edited")


def edit_and_suspend_it(stage: Stage) -> Held:
    """Edits and suspends at once, and lets it go."""
    name = "edited-and-suspended"
    old = stage.start(name)
    stage.kubectl.apply(builders.finetune(name, max_steps=2, suspend=True))
    held = _suspended(stage, name)
    stage.kubectl.apply(builders.finetune(name, max_steps=2))
    return Held(old, held, stage.completed(name))


def delete_it_while_it_resumes(stage: Stage) -> Deleted:
    """Deletes one that has published, has checkpoints of a further run, and shares its output with one that stays."""

    def lies_there() -> Listing:
        return store.listing(stage.kubectl, store.ADAPTER_BUCKET, "shared/")

    for name, steps in (("stays", 3), ("goes", 2)):
        recipe = builders.finetune(name, max_steps=steps, output=SHARED)
        stage.kubectl.apply(builders.data(name, builders.GOOD_DATA), recipe)
    stage.completed("stays")
    stage.completed("goes")
    stage.start("goes", saved_step=20, output=SHARED)
    resumed = builders.finetune("goes", max_steps=LONG_STEPS, output=SHARED)
    stage.kubectl.apply(resumed | {"spec": resumed["spec"] | {"suspend": True}})
    goes, before = _suspended(stage, "goes"), lies_there()
    stage.kubectl.apply(resumed)
    stage.kubectl.run("delete", "lorafinetune", "goes", "--timeout=180s")
    return Deleted(goes, before, lies_there())


def live(pods: list[Object]) -> list[Object]:
    """The pods that run or may still run."""
    return [pod for pod in pods if pod["status"]["phase"] not in ("Succeeded", "Failed")]


def _suspended(stage: Stage, name: str) -> Object:
    """A fine-tune that is held: no pod of it is left that may run."""
    stage.wait(f"{name} to be held", lambda: is_true(stage.finetune(name), "Suspended") and not live(stage.pods(name)))
    return stage.finetune(name)


def _kill_trainer(stage: Stage, name: str) -> None:
    """SIGKILL to the trainer of a fine-tune's only pod, as soon as there is one."""

    def look() -> int | None:
        return next((pid for pod in stage.pods(name) if (pid := trainer_of(pod)) is not None), None)

    os.kill(wait_for(f"a trainer of {name}", look, timeout_s=120, every_s=0.5), signal.SIGKILL)

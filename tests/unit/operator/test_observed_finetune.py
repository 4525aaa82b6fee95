"""Jobs and pods as they are read from API objects."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from loraline_api.conditions import Reason
from loraline_operator import observed, observed_finetune
from loraline_operator.actions import Manifest
from loraline_operator.observed_finetune import Stuck
from unit.operator.builders import a_finetune


def an_object(status: Manifest, **spec: Any) -> Manifest:
    metadata = {"name": "x", "namespace": "ns", "uid": "u", "resourceVersion": "1"}
    return {"metadata": metadata, "spec": spec, "status": status}


def waiting(reason: str, message: str = "") -> Manifest:
    return {"containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": reason, "message": message}}}]}


def unscheduled(message: str) -> Manifest:
    return {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]}


@pytest.mark.parametrize(
    ("status", "stuck"),
    [
        pytest.param(
            unscheduled("0/1"),
            Stuck(Reason.UNSCHEDULABLE, "0/1"),
            id="no node fits",
        ),
        pytest.param(
            unscheduled("0/1 nodes: 1 Insufficient memory. preemption: 0/1 nodes: 1 Preemption is not helpful."),
            Stuck(Reason.UNSCHEDULABLE, "0/1 nodes: 1 Insufficient memory."),
            id="no node fits, and what preemption would not do is left out",
        ),
        pytest.param(
            unscheduled('0/1 nodes are available: persistentvolumeclaim "models" not found. not found'),
            Stuck(Reason.CONFIG_MISSING, "PersistentVolumeClaim models does not exist in this namespace"),
            id="a claim is missing",
        ),
        pytest.param(
            unscheduled("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found"),
            Stuck(Reason.CONFIG_MISSING, "a PersistentVolumeClaim of the pod has no volume yet"),
            id="a claim has no volume",
        ),
        pytest.param(
            waiting("ImagePullBackOff", "Back-off"), Stuck(Reason.IMAGE_PULL_FAILED, "Back-off"), id="no image"
        ),
        pytest.param(
            waiting("InvalidImageName"), Stuck(Reason.IMAGE_PULL_FAILED, "InvalidImageName"), id="a bad image name"
        ),
        pytest.param(
            waiting("CreateContainerConfigError", 'secret "s" not found'),
            Stuck(Reason.CONFIG_MISSING, 'secret "s" not found'),
            id="a Secret that is not there",
        ),
        pytest.param(waiting("ContainerCreating"), None, id="a container that is being made"),
        pytest.param({}, None, id="a pod that nobody has looked at yet"),
    ],
)
def test_a_pod_that_does_not_start_tells_why(status: Manifest, stuck: Stuck | None) -> None:
    assert observed_finetune.pod(an_object(status)).stuck == stuck


def ended(code: int, reason: str) -> Manifest:
    terminated = {"exitCode": code, "reason": reason}
    return {"phase": "Failed", "containerStatuses": [{"state": {"terminated": terminated}}]}


def test_a_container_that_ran_out_of_memory_is_told_apart_with_its_limit() -> None:
    containers = [{"name": "trainer", "resources": {"limits": {"memory": "2Gi"}}}]
    pod = observed_finetune.pod(an_object(ended(137, "OOMKilled"), containers=containers))
    assert (pod.exit_code, pod.is_out_of_memory, pod.is_live) == (137, True, False)
    assert (pod.memory_limit, pod.is_lost) == ("2Gi", False)


def test_a_container_without_a_memory_limit_has_none() -> None:
    assert observed_finetune.pod(an_object(ended(137, "OOMKilled"), containers=[{"name": "x"}])).memory_limit is None


@pytest.mark.parametrize(
    ("code", "reason", "is_lost"),
    [
        pytest.param(255, "Unknown", True, id="containerd comes back and finds no process"),
        pytest.param(137, "ContainerStatusUnknown", True, id="the kubelet comes back and finds no container"),
        pytest.param(137, "Error", False, id="a kill"),
        pytest.param(255, "Error", False, id="a program that ends so"),
    ],
)
def test_a_container_that_went_down_with_its_node_is_told_apart(code: int, reason: str, is_lost: bool) -> None:
    assert observed_finetune.pod(an_object(ended(code, reason))).is_lost is is_lost


@pytest.mark.parametrize(
    ("conditions", "end", "has_failed"),
    [
        pytest.param([], None, False, id="no condition: it lives"),
        pytest.param([{"type": "Complete", "status": "True"}], "Complete", False, id="complete"),
        pytest.param(
            [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}], "DeadlineExceeded", True, id="failed"
        ),
        pytest.param([{"type": "Failed", "status": "False"}], None, False, id="a condition that is not true"),
        pytest.param([{"type": "FailureTarget", "status": "True"}], None, False, id="its pods have not ended yet"),
    ],
)
def test_a_job_has_ended_when_its_condition_says_so(
    conditions: list[Manifest], end: str | None, has_failed: bool
) -> None:
    job = observed_finetune.job(an_object({"conditions": conditions}))
    assert (job.end, job.has_failed, job.is_live) == (end, has_failed, end is None)


def test_a_pod_that_is_deleted_has_a_node_and_an_end() -> None:
    manifest = an_object({"phase": "Running"}, nodeName="node-1")
    manifest["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:00Z"
    pod = observed_finetune.pod(manifest)
    assert (pod.is_deleting, pod.node, pod.ends_by) == (True, "node-1", datetime(2026, 11, 22, 12, tzinfo=UTC))


@pytest.mark.parametrize("text", ["many", "-1", "٣", ""])
def test_a_label_that_is_no_number_stops_nothing(text: str) -> None:
    job, pod = an_object({}), an_object({})
    job["metadata"]["labels"] = {"loraline.dev/attempt": text}
    pod["metadata"]["annotations"] = {observed_finetune.INDEX_ANNOTATION: text}
    assert (observed_finetune.job(job).attempt, observed_finetune.pod(pod).index) == (1, 0)


@pytest.mark.parametrize(("change", "is_kept"), [({}, True), ({"generation": 2}, False), ({"uid": "v"}, False)])
def test_a_spec_is_parsed_once_for_each_generation_of_an_object(change: dict[str, Any], is_kept: bool) -> None:
    manifest = a_finetune().manifest
    before = observed.finetune(manifest)
    later = {**manifest, "metadata": {**manifest["metadata"], **change}, "status": {"phase": "Running"}}
    after = observed.finetune(later, before)
    assert (after.spec is before.spec, after.spec == before.spec, after.status.phase) == (is_kept, True, "Running")

"""What a pod that does not run is said to lack."""

from __future__ import annotations

from typing import Any

import pytest

from demo import trouble


def a_container(reason: str, message: str = "") -> dict[str, Any]:
    """A container that waits."""
    return {"name": "main", "image": "host/image:1", "state": {"waiting": {"reason": reason, "message": message}}}


TROUBLES: dict[str, tuple[dict[str, Any], str | None]] = {
    "it runs": ({"containerStatuses": [{"name": "main", "image": "x", "state": {"running": {}}}]}, None),
    "it was not seen yet": ({}, None),
    "it is being made": ({"containerStatuses": [a_container("ContainerCreating")]}, None),
    "no node takes it": (
        {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient memory."}]},
        "pod web finds no node: 0/1 nodes: Insufficient memory.",
    ),
    "the registry refuses": (
        {"containerStatuses": [a_container("ImagePullBackOff", "401 Unauthorized")]},
        "pod web cannot get its image host/image:1: 401 Unauthorized",
    ),
    "the first container of its start waits": (
        {"initContainerStatuses": [a_container("ErrImagePull", "no such host")]},
        "pod web cannot get its image host/image:1: no such host",
    ),
    "its program ends": (
        {"containerStatuses": [a_container("CrashLoopBackOff")]},
        "container main of pod web ends again and again: kubectl logs web",
    ),
    "a Secret is missing": (
        {"containerStatuses": [a_container("CreateContainerConfigError", 'secret "s3" not found')]},
        'container main of pod web waits (CreateContainerConfigError): secret "s3" not found',
    ),
}


@pytest.mark.parametrize(("status", "said"), TROUBLES.values(), ids=TROUBLES)
def test_what_keeps_a_pod_from_running_is_said_in_a_sentence(status: dict[str, Any], said: str | None) -> None:
    assert trouble.of_pod({"metadata": {"name": "web"}, "status": status}) == said

"""Why a pod does not run, in a sentence, as the kubelet and the scheduler say it."""

from __future__ import annotations

from collections.abc import Sequence

from demo.kubectl import Kubectl, Object

NO_TROUBLE = ("ContainerCreating", "PodInitializing")
"""Reasons of a container that waits for nothing but time."""


def in_namespace(kubectl: Kubectl) -> str:
    """A sentence for each pod of the namespace that does not run; empty when all do."""
    return "; ".join(sentence for pod in kubectl.items("pods") if (sentence := of_pod(pod)))


def of_pod(pod: Object) -> str | None:
    """What keeps a pod from running, or None."""
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"pod {name} finds no node: {condition.get('message', condition.get('reason', ''))}"
    containers: Sequence[Object] = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    for container in containers:
        waiting = container.get("state", {}).get("waiting", {})
        reason = waiting.get("reason", "")
        if reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName"):
            message = waiting.get("message", reason)
            return f"pod {name} cannot get its image {container['image']}: {message}"
        if reason == "CrashLoopBackOff":
            return f"container {container['name']} of pod {name} ends again and again: kubectl logs {name}"
        if reason and reason not in NO_TROUBLE:
            return f"container {container['name']} of pod {name} waits ({reason}): {waiting.get('message', '')}"
    return None

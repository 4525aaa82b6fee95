"""A Kubernetes event on an object."""

from __future__ import annotations

from datetime import datetime

from loraline_operator import naming
from loraline_operator.actions import Event, Manifest


def event(about: Manifest, event: Event, now: datetime) -> Manifest:
    """The event as an API object; `about` is the object as the API server holds it."""
    metadata = about["metadata"]
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "reason": event.reason,
        "message": event.message,
        "type": "Warning" if event.is_warning else "Normal",
        "source": {"component": naming.MANAGER},
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }

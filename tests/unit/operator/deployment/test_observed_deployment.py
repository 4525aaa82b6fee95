"""What the status of a serving pod says about a container that does not stay up."""

from __future__ import annotations

from typing import Any

import pytest

from loraline_operator import observed_deployment

ENDED = {"terminated": {"exitCode": 1, "message": "2026-01-01 10:00:00,123 ERROR no S3 credentials;\nname a Secret\n"}}
SAID = "container fetch-base exited with code 1: no S3 credentials; name a Secret"

CRASHES: dict[str, tuple[dict[str, Any], str]] = {
    "it waits for its next start": ({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ENDED}, SAID),
    "it has just ended": ({"state": ENDED}, SAID),
    "it starts again": ({"state": {"running": {}}, "lastState": ENDED}, ""),
    "it is done": ({"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}, ""),
    "it was killed without a word": (
        {"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}},
        "container fetch-base exited with code 137: OOMKilled",
    ),
}


@pytest.mark.parametrize(("container", "said"), CRASHES.values(), ids=CRASHES)
def test_a_crash_is_told_with_its_last_words(container: dict[str, Any], said: str) -> None:
    manifest = {
        "metadata": {"name": "pod", "namespace": "ns", "uid": "u", "resourceVersion": "1"},
        "status": {"initContainerStatuses": [{"name": "fetch-base", **container}]},
    }
    assert observed_deployment.pod(manifest).crash == said

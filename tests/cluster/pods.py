"""Pods for tests of a node: kubectl, a pod that runs a script under the restricted Pod Security Standard, its end."""

from __future__ import annotations

import json
import subprocess
import textwrap
from pathlib import Path

from cluster import fixture


def kubectl(kubeconfig: Path, *arguments: str, text: str | None = None) -> str:
    command = [str(fixture.programs() / "kubectl"), f"--kubeconfig={kubeconfig}", *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_pod(folder: Path, name: str, script: str, *, image: str = "", **container: object) -> None:
    """Starts a pod that runs a Python script, by default in the image that the folder's file `image` names."""
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 5,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "main",
                "image": image or (folder / "image").read_text(),
                "command": ["python3", "-c", textwrap.dedent(script)],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                **container,
            }
        ],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}
    kubectl(folder / "admin.kubeconfig", "apply", "-f", "-", text=json.dumps(pod))


def await_pod(folder: Path, name: str, condition: str) -> None:
    kubectl(folder / "admin.kubeconfig", "wait", f"--for={condition}", f"pod/{name}", "--timeout=60s")


def terminated(folder: Path, name: str) -> dict[str, object]:
    pod = json.loads(kubectl(folder / "admin.kubeconfig", "get", "pod", name, "-o", "json"))
    state: dict[str, object] = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return state

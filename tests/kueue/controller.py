"""Runs Kueue's own controller beside a control plane: its CRDs, its webhooks, and its integration of batch/v1 Jobs.

The webhooks are those of Kueue's installation, reached on 127.0.0.1 instead of through a Service, which would need a
node. The program reads the certificate of its metrics from below /etc and nowhere else, so it has an /etc of its own.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster import fixture
from harness import operator_process as harness

NAMESPACE = "kueue-system"
SERVED = ("job", "clusterqueue", "cohort", "resourceflavor", "workload")
"""What webhooks look at here, of all that Kueue has integrations for."""

CONVERTED = ("localqueues", "clusterqueues", "cohorts", "workloads", "multikueueclusters")
"""Kinds whose versions the controller converts; of the others both are the same."""

START_S = 60.0
OWN_ETC = """
mount -t tmpfs none /etc
mkdir -p /etc/kueue/metrics
cp -r "$1" /etc/kueue/metrics/certs
shift
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Kueue:
    """A running controller, and its objects through kubectl."""

    kubeconfig: Path
    log: Path

    def apply(self, *objects: dict[str, Any]) -> None:
        """Applies objects."""
        together = {"apiVersion": "v1", "kind": "List", "items": objects}
        self._kubectl("apply", "--filename=-", input_text=json.dumps(together))

    def list(self, kind: str, namespace: str) -> list[dict[str, Any]]:
        """The objects of a kind."""
        found = self._kubectl("get", kind, f"--namespace={namespace}", "--output=json")
        items: list[dict[str, Any]] = json.loads(found)["items"]
        return items

    def post(self, path: str, body: dict[str, Any]) -> None:
        """Posts to a path of the API server."""
        self._kubectl("create", f"--raw={path}", "--filename=-", input_text=json.dumps(body))

    def kill(self, namespace: str, pod: str) -> None:
        """Takes a pod away, as a kubelet does whose pod has ended."""
        at_once = ("--force", "--grace-period=0", "--ignore-not-found")
        self._kubectl("delete", "pod", pod, f"--namespace={namespace}", *at_once)

    def _kubectl(self, *arguments: str, input_text: str | None = None) -> str:
        command = [str(fixture.programs() / "kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=input_text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextlib.contextmanager
def running(kubeconfig: Path, folder: Path) -> Iterator[Kueue]:
    """Installs Kueue and runs its controller while the context lasts.

    Raises:
        FixtureError: it ended, or was not ready within a minute; the message names its log.
    """
    parts = fixture.kueue()
    certificates, log = folder / "certificates", folder / "kueue.log"
    certificates.mkdir(parents=True)
    certificate, _ = fixture.certificate(certificates)
    ports = {name: fixture.free_port() for name in ("webhook", "health")}
    authority = base64.b64encode(certificate.read_bytes()).decode()
    door = {"url": f"https://127.0.0.1:{ports['webhook']}", "caBundle": authority}
    kueue = Kueue(kubeconfig, log)
    files = sorted((parts / "crds").glob("*.yaml"))
    crds = [_with_conversion(yaml.safe_load(file.read_text()), door) for file in files]
    harness.kubectl(kubeconfig, "create", "namespace", NAMESPACE)
    _create(kubeconfig, folder / "crds.yaml", crds)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(_configuration(ports, certificates)), encoding="utf-8")
    own_etc = ("unshare", "--map-root-user", "--mount", "sh", "-ec", OWN_ETC, "sh", str(certificates))
    command = [*own_etc, str(parts / "kueue"), f"--config={config}", "--zap-log-level=2"]
    with log.open("wb") as output:
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        with fixture.tied("run", command, environment, output=output.fileno()) as process:
            _await_ready(ports["health"], process, log)
            hooks = yaml.safe_load_all((parts / "webhooks.yaml").read_text())
            _create(kubeconfig, folder / "webhooks.yaml", [_with_door(one, door) for one in hooks])
            yield kueue


def _configuration(ports: dict[str, int], certificates: Path) -> dict[str, Any]:
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": NAMESPACE,
        "health": {"healthProbeBindAddress": f"127.0.0.1:{ports['health']}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": "127.0.0.1", "port": ports["webhook"], "certDir": str(certificates)},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "integrations": {"frameworks": ["batch/job"]},
        "featureGates": {"VisibilityOnDemand": False},
    }


def _with_conversion(crd: dict[str, Any], door: dict[str, str]) -> dict[str, Any]:
    """The CRD, with the way to the controller where it converts its versions."""
    if crd["spec"]["names"]["plural"] not in CONVERTED:
        return crd
    client = {**door, "url": f"{door['url']}/convert"}
    crd["spec"]["conversion"] = {
        "strategy": "Webhook",
        "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1"]},
    }
    return crd


def _with_door(hooks: dict[str, Any], door: dict[str, str]) -> dict[str, Any]:
    """The webhooks of what is served here, each at its path."""
    kept = [one for one in hooks["webhooks"] if one["name"].split(".")[0][1:] in SERVED]
    for one in kept:
        one["clientConfig"] = {**door, "url": door["url"] + one["clientConfig"]["service"]["path"]}
    hooks["metadata"]["name"] = f"kueue-{hooks['metadata']['name']}"
    return {**hooks, "webhooks": kept}


def _create(kubeconfig: Path, file: Path, objects: list[dict[str, Any]]) -> None:
    file.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    harness.kubectl(kubeconfig, "create", f"--filename={file}")
    if objects[0]["kind"] == "CustomResourceDefinition":
        harness.kubectl(kubeconfig, "wait", "--for=condition=Established", "--timeout=30s", f"--filename={file}")


def _await_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise fixture.FixtureError(f"Kueue ended with exit code {process.returncode}: {log.read_text()[-2000:]}")
        address = f"http://127.0.0.1:{port}/readyz"
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=1):
            return
        time.sleep(0.1)
    raise fixture.FixtureError(f"Kueue was not ready within {START_S:.0f} s; its log is {log}")

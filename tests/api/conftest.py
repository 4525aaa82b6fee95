"""A control plane with both kinds, for the whole session."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import fixture

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def crds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The kubeconfig of a real API server that knows the CRDs."""
    with fixture.control_plane(tmp_path_factory.mktemp("control-plane")) as kubeconfig:
        files = [f"--filename={path}" for path in sorted((REPOSITORY / "crds").glob("*.yaml"))]
        kubectl = [str(fixture.programs() / "kubectl"), f"--kubeconfig={kubeconfig}"]
        subprocess.run([*kubectl, "apply", "--server-side", *files], check=True, timeout=60)
        established = ["wait", "--for=condition=Established", "--timeout=30s", *files]
        subprocess.run([*kubectl, *established], check=True, timeout=60)
        yield kubeconfig

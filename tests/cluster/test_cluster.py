"""The built-in cluster itself: it keeps its data, leaves nothing behind, and runs beside another one.

What an operator needs of Kubernetes is taken from Kubernetes; only what our scripts add or could break is shown here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import fixture
from cluster.pods import await_pod, kubectl, run_pod, terminated

MACHINE = Path("/run/loraline/clusters")
HOLDER = """
import sys, time
from pathlib import Path
from cluster import fixture
with fixture.control_plane(Path(sys.argv[1])):
    print("up", flush=True)
    time.sleep(600)
"""


def programs_of(folder: Path) -> list[str]:
    """The command lines that name this folder, and the processes of its node's cgroup."""
    lines = subprocess.check_output(["ps", "-wweo", "args"], text=True).splitlines()
    return [line for line in lines if f"{folder}/" in line]


def leftovers(folder: Path) -> list[str]:
    """What of that cluster is on the machine outside of its folder."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]
    claims = [path.name for path in MACHINE.glob("*") if path.read_text() == str(folder)]
    return programs_of(folder) + mounts + claims


def has_fence() -> bool:
    return "10.244.0.0/14" in subprocess.check_output(["ip", "route"], text=True)


def test_a_stopped_control_plane_leaves_nothing_and_goes_on_with_its_data(tmp_path: Path) -> None:
    with fixture.control_plane(tmp_path) as kubeconfig:
        kubectl(kubeconfig, "create", "configmap", "kept", "--from-literal=a=1")
        assert has_fence()
    assert leftovers(tmp_path) == []
    assert has_fence() is any(MACHINE.glob("*"))
    with fixture.control_plane(tmp_path) as kubeconfig:
        assert json.loads(kubectl(kubeconfig, "get", "configmap", "kept", "-o", "json"))["data"] == {"a": "1"}


def test_a_cluster_ends_with_the_process_that_holds_it_even_by_sigkill(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        assert len(programs_of(tmp_path)) >= 4
        holder.kill()
    deadline = time.monotonic() + 20
    while leftovers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert leftovers(tmp_path) == []


def test_a_cluster_that_is_running_is_not_started_again(tmp_path: Path) -> None:
    with fixture.control_plane(tmp_path) as kubeconfig:
        command = [str(Path(__file__).with_name("up.sh")), "control-plane", str(tmp_path)]
        again = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (again.returncode, kubectl(kubeconfig, "get", "--raw=/readyz")) == (1, "ok")
    assert again.stderr == f"up.sh: {tmp_path} is running already; down.sh {tmp_path} stops it\n"


def test_a_program_of_a_cluster_holds_no_lock_of_its_starter(tmp_path: Path) -> None:
    for name in ("pids", "logs"):
        (tmp_path / name).mkdir()
    script = f"""
        dir={tmp_path}; . tests/cluster/lib.sh
        exec 9>{tmp_path}/lock; flock 9
        start sleeper sleep 600
        exec 9>&-; flock --wait 20 {tmp_path}/lock true && echo free
        kill "$!"
    """
    done = subprocess.run(["bash", "-euc", script], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (0, b"free\n")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a cluster with a node."""
    images = fixture.build_images("operator", "node-images")
    folder = tmp_path_factory.mktemp("node")
    with fixture.node(folder):
        fixture.load_images(folder, [images["operator"]])
        (folder / "image").write_text(images["operator"])
        yield folder


def test_a_pod_of_our_image_runs_as_nobody_in_particular_and_says_its_last_words(node: Path) -> None:
    run_pod(node, "words", "import os; open('/dev/termination-log', 'w').write(str(os.getuid())); raise SystemExit(7)")
    await_pod(node, "words", "jsonpath={.status.phase}=Failed")
    assert {key: terminated(node, "words")[key] for key in ("exitCode", "message")} == {
        "exitCode": 7,
        "message": "65532",
    }


def test_a_service_is_reached_by_its_name_from_a_pod_and_from_the_node(node: Path) -> None:
    run_pod(
        node,
        "web",
        """
        import http.server
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"it works")
        http.server.HTTPServer(("", 8080), Handler).serve_forever()
        """,
        readinessProbe={"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    )
    kubectl(node / "admin.kubeconfig", "expose", "pod", "web", "--port=80", "--target-port=8080")
    await_pod(node, "web", "condition=Ready")
    url = "http://web.default.svc.cluster.local/"
    fetch = f"""
        import time, urllib.request
        for _ in range(60):
            try:
                print(urllib.request.urlopen("{url}", timeout=2).read().decode())
                break
            except OSError:
                time.sleep(0.5)
        """
    run_pod(node, "client", fetch)
    await_pod(node, "client", "jsonpath={.status.phase}=Succeeded")
    assert kubectl(node / "admin.kubeconfig", "logs", "client") == "it works\n"
    assert fixture.in_node(node, ["curl", "-s", "--max-time", "5", url]).stdout == "it works"


def test_a_container_over_its_memory_limit_is_killed_for_that(node: Path) -> None:
    run_pod(node, "large", "x = bytearray(300 << 20)", resources={"limits": {"memory": "64Mi"}})
    await_pod(node, "large", "jsonpath={.status.phase}=Failed")
    assert terminated(node, "large")["reason"] == "OOMKilled"


def test_two_nodes_run_side_by_side_and_each_leaves_nothing(node: Path, tmp_path: Path) -> None:
    with fixture.node(tmp_path) as kubeconfig:
        assert json.loads(kubectl(kubeconfig, "get", "pods", "-o", "json"))["items"] == []
        assert any(line.startswith("containerd ") for line in programs_of(tmp_path))
    assert leftovers(tmp_path) == []
    assert kubectl(node / "admin.kubeconfig", "get", "--raw=/readyz") == "ok"
    assert fixture.in_node(node, ["ctr", "version"]).returncode == 0


def test_a_nodes_copy_of_the_images_shares_the_layers_and_nothing_that_is_written(node: Path) -> None:
    files = [path for path in (node / "lib/containerd").rglob("*") if path.is_file() and not path.is_symlink()]
    shared = [path for path in files if path.stat().st_nlink > 1]
    assert len(shared) > len(files) / 2
    assert [path for path in shared if path.suffix == ".db"] == []

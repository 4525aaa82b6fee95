"""Where the demo runs: the built-in cluster with its images, or a cluster of the user's kubeconfig.

Building and starting is the work of tests/tools, tests/images and tests/cluster; this says in which order, and where
the results are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo import view
from demo.kubectl import Kubectl

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
NAMESPACE = "loraline-demo"
SYSTEM = "loraline-system"
CHART = ROOT / "charts" / "loraline"
MODEL = "SmolLM2-135M-Instruct"

FIRST_RUN = (
    "This machine runs it for the first time: building a Kubernetes and images of PyTorch and vLLM takes about 40 "
    "minutes on two cores and 40 GB in {cache}. Each part says how long it takes, and stays there once it is made."
)
"""What is said before the long first run, so that nobody takes it for a hang."""


class GroundError(Exception):
    """A step of building or starting that ended with an error."""


@dataclass(frozen=True, slots=True)
class Images:
    """Names of the images, with tags made from their content."""

    operator: str
    trainer: str
    server: str
    """vLLM for CPUs; empty is the chart's own, which is for GPUs."""
    s3: str


@dataclass(frozen=True, slots=True)
class Ground:
    """A cluster that is up, and what is used to drive it."""

    kubectl: Kubectl
    helm: Path
    images: Images
    folder: Path | None
    """Folder of the built-in cluster; None is a cluster of the user's."""

    @property
    def is_built_in(self) -> bool:
        """Whether it is ours to start and remove."""
        return self.folder is not None


def cache_folder() -> Path:
    """Where all that is built is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loraline"


def built_in(folder: Path) -> Ground:
    """Builds what is missing, and starts the cluster of that folder unless it runs."""
    if not (cache_folder() / "images" / "node").exists():
        view.say(FIRST_RUN.format(cache=cache_folder()))
    view.say("[1/6] Debian's packages for a node and for images")
    script("tools/setup.sh", "system")
    view.say("[2/6] Kubernetes")
    programs = Path(last_line("tools/setup.sh", "k8s-node"))
    view.say("[3/6] An S3 server and helm")
    helm_program = helm()
    view.say("[4/6] Images: operator, trainer with PyTorch, vLLM, S3")
    built = named_values(script("images/build.sh"))
    view.say(f"[5/6] The base model, {MODEL}")
    model_folder()
    view.say("[6/6] The cluster")
    if not is_running(folder):
        command = [str(ROOT / "tests" / "cluster" / "up.sh"), "node", str(folder)]
        run(command, os.environ | {"LORALINE_NODE_IMAGES": built["node-images"]})
    script("images/load.sh", str(folder))
    kubectl = Kubectl(programs / "kubectl", NAMESPACE, kubeconfig=folder / "admin.kubeconfig")
    return Ground(kubectl, helm_program, images_of(built), folder)


def of_context(kubectl: Kubectl, registry: str, gpus: int) -> Ground:
    """A cluster of the user's kubeconfig; the images are built and pushed to the registry."""
    names = ["operator", "trainer", "s3", *(["server"] if gpus == 0 else [])]
    images = images_of(named_values(script("images/push.sh", registry, *names)))
    return Ground(kubectl, helm(), images, None)


def users_kubectl(context: str) -> Kubectl:
    """The user's own kubectl, or else the one of the built-in cluster."""
    found = shutil.which("kubectl")
    program = Path(found) if found else Path(last_line("tools/setup.sh", "k8s-control-plane")) / "kubectl"
    return Kubectl(program, NAMESPACE, context=context)


def helm() -> Path:
    """The helm of the tests."""
    return Path(last_line("tools/setup.sh", "tools")) / "helm"


def remove(folder: Path) -> None:
    """Stops the built-in cluster of that folder and forgets it."""
    if folder.exists():
        script("cluster/down.sh", str(folder))
        shutil.rmtree(folder)


def model_folder() -> Path:
    """The demo's base model as a Hugging Face folder, made from its package where it is not there yet."""
    return Path(run([sys.executable, str(ROOT / "tests" / "tools" / "model.py")]).splitlines()[-1])


def is_running(folder: Path) -> bool:
    """Whether the cluster of that folder answers."""
    kubeconfig = folder / "admin.kubeconfig"
    if not kubeconfig.exists():
        return False
    program = Path(last_line("tools/setup.sh", "k8s-control-plane")) / "kubectl"
    command = [str(program), "--kubeconfig", str(kubeconfig), "--request-timeout=5s", "get", "--raw=/readyz"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def images_of(named: Mapping[str, str]) -> Images:
    """The images among a build's results."""
    return Images(named["operator"], named["trainer"], named.get("server", ""), named["s3"])


def named_values(text: str) -> dict[str, str]:
    """A script's results, one `NAME=VALUE` a line."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def script(name: str, *args: str) -> str:
    """Output of one of the scripts below tests/; what it says for people goes on to the terminal.

    Raises:
        GroundError: the script ended with an error.
    """
    return run([str(ROOT / "tests" / name), *args])


def last_line(name: str, *args: str) -> str:
    """The last line of a script's output: the path of what it made."""
    return script(name, *args).splitlines()[-1]


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Output of a command; what it says for people goes on to the terminal.

    Raises:
        GroundError: the command ended with an error.
    """
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise GroundError(f"`{' '.join(command)}` ended with exit code {done.returncode}; its last words stand above")
    return done.stdout

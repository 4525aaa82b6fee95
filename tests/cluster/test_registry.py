"""Images on their way to a cluster of the user's: pushed to a real registry, and pulled from there by a node."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import fixture
from cluster.pods import await_pod, run_pod

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parent / "images"
USERS = "pusher:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"  # perl's crypt of `secret`


def push(registry: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """push.sh with the operator's image, as the built-in cluster has it."""
    base = ". tests/tools/lib.sh; . tests/images/lib.sh; name_images; echo $base"
    named = subprocess.check_output(["bash", "-euc", base], cwd=HERE.parents[1], text=True).strip()
    return subprocess.run(
        [str(IMAGES / "push.sh"), registry, "operator"],
        env=os.environ | {"LORALINE_ENGINE": "buildah", "LORALINE_BASE": named} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def registry_of(folder: Path, **environment: str) -> str:
    """The name of a registry that ends with the cluster of that folder."""
    command = [str(HERE / "registry.sh"), str(folder)]
    return subprocess.check_output(command, env=os.environ | environment, text=True).strip()


def test_a_pushed_image_is_pulled_by_a_node_that_never_saw_it(tmp_path: Path) -> None:
    fixture.build_images("operator")
    with fixture.node(tmp_path, {"LORALINE_NODE_IMAGES": ""}):
        registry = registry_of(tmp_path)
        pushed = push(f"{registry}/team/")
        assert pushed.returncode == 0, pushed.stderr
        image = pushed.stdout.strip().removeprefix("operator=")
        assert image.startswith(f"{registry}/team/loraline-operator:")
        run_pod(tmp_path, "pulled", "import loraline_operator", image=image)
        await_pod(tmp_path, "pulled", "jsonpath={.status.phase}=Succeeded")
        again = push(f"{registry}/team")
        assert (again.returncode, again.stdout, again.stderr) == (0, pushed.stdout, "")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that wants a login, without a cluster."""
    folder = tmp_path_factory.mktemp("guarded")
    users = folder / "users"
    users.write_text(USERS)
    try:
        yield registry_of(folder, REGISTRY_USERS=str(users))
    finally:
        subprocess.run([str(HERE / "down.sh"), str(folder)], check=True)


def login(folder: Path, registry: str, password: str) -> dict[str, str]:
    """The environment of a user who has logged in."""
    token = base64.b64encode(f"pusher:{password}".encode()).decode()
    path = folder / "auth.json"
    path.write_text(json.dumps({"auths": {registry: {"auth": token}}}))
    return {"REGISTRY_AUTH_FILE": str(path)}


def test_a_registry_that_wants_a_login_says_so_before_anything_is_built(guarded: str, tmp_path: Path) -> None:
    done = push(f"{guarded}/team", REGISTRY_AUTH_FILE=str(tmp_path / "none.json"))
    said = f"push.sh: the registry {guarded} wants a login, and this machine has none: buildah login {guarded}\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_a_wrong_login_is_told_whom_to_log_in_as(guarded: str, tmp_path: Path) -> None:
    done = push(f"{guarded}/team", **login(tmp_path, guarded, "wrong"))
    assert done.returncode == 1
    assert "unauthorized" in done.stderr
    assert f"log in as one who may push to {guarded}/team/loraline-operator (buildah login {guarded})" in done.stderr


def test_a_right_login_pushes(guarded: str, tmp_path: Path) -> None:
    done = push(f"{guarded}/team", **login(tmp_path, guarded, "secret"))
    assert done.returncode == 0, done.stderr


REFUSED = {
    "nobody listens there": ("127.0.0.1:9/team", "the registry 127.0.0.1:9 does not answer: curl: "),
    "a name without a host": ("team", "which names no host: give it as host/path, such as docker.io/team"),
    "an address in place of a name": ("https://ghcr.io/team", "leave https:// out, as in ghcr.io/team"),
    "capitals": ("ghcr.io/Team", "names of images are in lower case: ghcr.io/team"),
}


@pytest.mark.parametrize(("registry", "said"), REFUSED.values(), ids=REFUSED)
def test_a_registry_that_cannot_be_is_refused_at_once(registry: str, said: str) -> None:
    done = push(registry)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr

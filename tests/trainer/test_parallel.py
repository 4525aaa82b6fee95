"""Several processes train one run together: the losses of one process, its checkpoints, and one end for all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.fixture import free_port
from loraline_api import outcome, pods
from loraline_api.outcome import ExitCode, Outcome
from trainer.builders import SMALL, Pod, recipe
from trainer.interrupting import interrupted, output, steps, uninterrupted

ROOT = Path(__file__).resolve().parents[2]
EXACT: dict[str, Any] = {
    "quantization": {"type": "none", "computeDtype": "float32"},
    "training": {**SMALL["training"], "maxSteps": 6},  # 36 rows: an epoch of 5 steps, the last one of 4 rows
}
LOSS = re.compile(r"step (\d+) of 6: loss (\S+?), gradient (\S+?),")


class Pods:
    """The pods of an attempt of several processes: `nodes` pods of `each` processes, as real programs."""

    def __init__(self, first: Pod, *, nodes: int, each: int, options: Sequence[str] = ()) -> None:
        self.first = first
        self.nodes = nodes
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "crds"), str(ROOT / "trainer_image")]),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(first.root.parent),
            "PET_NNODES": str(nodes),
            "PET_NPROC_PER_NODE": str(each),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(free_port()),
        }
        self._options = options
        self.running: list[subprocess.Popen[str]] = []
        self.logs = [first.root.parent / f"log-{node}" for node in range(nodes)]

    def __enter__(self) -> Pods:
        for node in range(self.nodes):
            pod = self.pod(node)
            command = [sys.executable, "-m", "loraline_trainer", "job", "--root", str(pod.root), "--port"]
            with self.logs[node].open("w") as log:
                process = subprocess.Popen(
                    [*command, str(free_port()), *self._options],
                    env={**self._environment, "PET_NODE_RANK": str(node)},
                    stdout=log,
                    stderr=log,
                    text=True,
                )
            self.running.append(process)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running:
            process.kill()
            process.wait()

    def pod(self, node: int) -> Pod:
        """The pod of that rank; all have the files of the first one, but their own scratch and termination log."""
        if node == 0:
            return self.first
        root = self.first.root.with_name(f"{self.first.root.name}-{node}")
        if not root.exists():
            for folder in (pods.RUN_DIR, pods.SECRETS_DIR, pods.PVC_DIR):
                target = root / str(folder).lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(self.first.at(folder))
            (root / "dev").mkdir()
        return Pod(root, self.first.base, self.first.s3)

    def ended(self) -> tuple[list[int], Outcome]:
        """The exit codes of the pods, and what the first one told."""
        codes = [process.wait(timeout=600) for process in self.running]
        text = self.first.at(pods.TERMINATION_LOG)
        told = outcome.parse_outcome(text.read_text()) if text.exists() else None
        assert told is not None, self.logs[0].read_text()[-3000:]
        return codes, told


def losses(log: str) -> dict[int, tuple[float, float]]:
    """Loss and gradient's norm of the logged steps."""
    return {int(step): (float(loss), float(norm)) for step, loss, norm in LOSS.findall(log)}


def test_two_pods_give_the_losses_of_one_with_the_same_batch(
    pod: Pod, lines: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In float32; sums in another order differ in the seventh digit, and the log has four."""
    with caplog.at_level("INFO"):
        whole = uninterrupted(pod, lines, **EXACT)
    with Pods(interrupted(pod, lines, **EXACT), nodes=2, each=1) as together:
        codes, told = together.ended()
    assert codes == [0, 0], together.logs[0].read_text()[-3000:]
    alone = losses(caplog.text)
    assert set(alone) == {1, 6}
    for step, numbers in losses(together.logs[0].read_text()).items():
        assert numbers == pytest.approx(alone[step], rel=2e-4)
    assert (told.steps, told.train_loss) == (whole.steps, whole.train_loss)
    assert told.metrics == whole.metrics
    assert not together.pod(1).at(pods.TERMINATION_LOG).exists()


def test_sigterm_saves_once_and_a_new_attempt_of_two_processes_ends_in_the_same_adapter(pod: Pod, lines: str) -> None:
    changes = {**EXACT, "adapter": {"rank": 4, "dropout": 0.2}, "training": {**EXACT["training"], "maxSteps": 60}}
    with Pods(interrupted(pod, lines, **changes), nodes=1, each=2, options=["--checkpoint-interval", "5"]) as stopped:
        while not steps(pod):
            assert stopped.running[0].poll() is None, stopped.logs[0].read_text()[-3000:]
            time.sleep(0.01)
        stopped.running[0].send_signal(signal.SIGTERM)
        codes, told = stopped.ended()
    assert codes == [ExitCode.INTERRUPTED], stopped.logs[0].read_text()[-3000:]
    saved = steps(pod)[-1]
    assert told.message.endswith(f"a further attempt goes on from step {saved}")
    with Pods(pod, nodes=1, each=2) as again:
        codes, told = again.ended()
    assert codes == [0], again.logs[0].read_text()[-3000:]
    assert told.checkpoint is not None
    assert told.checkpoint.resumed_step == saved
    other = Pod(pod.root.with_name("whole"), pod.base, pod.s3)
    elsewhere = recipe(pod.s3.endpoint, output=output(pod, f"{pod.root.parent.name}-whole"), **changes)
    with Pods(other.holding(elsewhere, lines), nodes=1, each=2) as whole:
        _, reference = whole.ended()
    assert not reference.reused
    assert told.version == reference.version


def test_an_end_of_one_process_is_the_end_of_all_with_its_exit_code(pod: Pod, lines: str) -> None:
    """The model is missing in the second pod alone."""
    together = Pods(interrupted(pod, lines), nodes=2, each=1)
    lame = together.pod(1).at(pods.PVC_DIR)
    lame.unlink()
    (lame / "models").mkdir(parents=True)
    with together:
        codes, told = together.ended()
    assert codes == [ExitCode.BASE_MODEL_NOT_FOUND] * 2
    assert "the claim models has no folder tiny" in told.message

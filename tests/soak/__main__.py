"""`python -m soak --minutes 60`: real processes, a real S3, a tiny real model, SIGKILL and SIGTERM at random moments.

Every run is interrupted again and again until an attempt comes through; then its adapter is compared, file by file,
with that of a run of the same recipe which nobody touched. Ends with an error at the first difference, and leaves both
adapters for a look.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import signal
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from cluster import fixture
from loraline_api.finetune import Checkpoint
from loraline_api.outcome import ExitCode
from soak import process
from tools import tiny_model
from trainer.builders import BUCKET, SMALL, Pod, recipe, sums

STEPS = 60
TRAINING = {**SMALL["training"], "maxSteps": STEPS, "microBatchSize": 4}
KINDS: dict[str, dict[str, Any]] = {
    "dropout, NEFTune, packed, NF4": {
        "adapter": {"rank": 4, "dropout": 0.2},
        "training": {**TRAINING, "neftuneNoiseAlpha": 5.0},
    },
    "dropout, padded, 16 bits": {
        "adapter": {"rank": 4, "dropout": 0.2},
        "training": {**TRAINING, "packing": False},
        "quantization": {"type": "none"},
    },
    "early stopping": {"training": {**TRAINING, "earlyStopping": {"patience": 40, "everySteps": 3}}},
}
PATIENCE_S = 600.0
PROCESSES = multiprocessing.get_context("forkserver")


class Soak:
    """Runs, kills and comparisons below one folder."""

    def __init__(self, folder: Path, server: fixture.S3Server, dice: random.Random) -> None:
        self._folder = folder
        self._server = server
        self._dice = dice
        self._base = tiny_model.write_base(folder / "tiny")
        self._references: dict[str, Path] = {}
        self.kills: Counter[str] = Counter()
        self.runs = 0

    def round(self, kind: str) -> None:
        """Makes one run of that kind, killed as often as the dice say, and compares its adapter.

        Raises:
            AssertionError: it differs.
        """
        if kind not in self._references:
            self._references[kind] = self._run(kind, f"whole-{len(self._references)}", may_kill=False)
        adapter = self._run(kind, f"run-{self.runs}", may_kill=True)
        self.runs += 1
        reference = self._references[kind]
        for file in sorted(path.name for path in reference.iterdir() if path.name != "manifest.json"):
            assert (adapter / file).read_bytes() == (reference / file).read_bytes(), f"{kind}: {adapter / file}"
        assert adapter.name == reference.name, f"{kind}: version {adapter.name} instead of {reference.name}"

    def _run(self, kind: str, name: str, *, may_kill: bool) -> Path:
        """The folder of the adapter that the run publishes."""
        output = {"uri": f"s3://{BUCKET}/{name}", "endpoint": self._server.endpoint, "secretRef": {"name": "storage"}}
        pod = Pod(self._folder / name, self._base, self._server)
        pod.holding(recipe(self._server.endpoint, output=output, **KINDS[kind]), sums())
        while True:
            port = fixture.free_port()
            checkpoint = Checkpoint(interval=self._dice.randint(1, 12), keep=self._dice.randint(1, 3))
            started = PROCESSES.Process(target=process.attempt, args=(pod.root, port, checkpoint))
            started.start()
            code = self._ended(started, port, self._dice.randint(0, STEPS + 5) if may_kill else None)
            if code == ExitCode.SUCCEEDED:
                (adapter,) = (self._server.data / BUCKET / name / "adapters").iterdir()
                return adapter
            assert code in (ExitCode.INTERRUPTED, -signal.SIGKILL), f"{kind}: exit code {code}"

    def _ended(self, started: BaseProcess, port: int, kill_at: int | None) -> int:
        """The exit code of an attempt; kills it at that step, or soon after."""
        deadline = time.monotonic() + PATIENCE_S
        signalled = kill_at is None
        while started.is_alive():
            assert time.monotonic() < deadline, f"an attempt takes longer than {PATIENCE_S:.0f} s"
            if not signalled and kill_at is not None and step_at(port) >= kill_at:
                number = self._dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
                time.sleep(self._dice.uniform(0, 0.2))
                (started.kill if number is signal.SIGKILL else started.terminate)()
                signalled = True
                self.kills[number.name] += 1
            started.join(0.02)
        return started.exitcode or 0


def step_at(port: int) -> int:
    """The step that an attempt tells; -1 before it answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=2) as answer:
            progress = json.load(answer)
    except OSError:
        return -1
    return int(progress["step"]) if progress.get("totalSteps") else -1


def main() -> int:
    """Runs the soak and prints its numbers."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long; the run in progress is finished")
    parser.add_argument("--seed", type=int, default=1, help="of the steps and signals")
    options = parser.parse_args()
    PROCESSES.set_forkserver_preload(["soak.process"])
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    with fixture.s3_server(folder / "s3") as server:
        (server.data / BUCKET).mkdir()
        soak = Soak(folder, server, random.Random(options.seed))
        while time.monotonic() - began < 60 * options.minutes:
            kind = list(KINDS)[soak.runs % len(KINDS)]
            soak.round(kind)
            minutes = (time.monotonic() - began) / 60
            print(f"{minutes:5.1f} min: {soak.runs} runs equal, kills {dict(soak.kills)} ({kind})", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Builds recipes and training pods' file systems. No tests here."""

from __future__ import annotations

import contextlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import fixture
from loraline_api import outcome, pods, run
from loraline_api.artifact import AdapterManifest
from loraline_api.finetune import LoraFineTuneSpec
from loraline_trainer import job
from loraline_trainer.settings import Settings

BUCKET = "adapters"

SMALL: dict[str, Any] = {
    "adapter": {"rank": 4},
    "training": {"batchSize": 8, "maxSteps": 4, "learningRate": 0.01, "maxSeqLength": 128},
    "evaluation": {"metrics": ["loss"]},
    "compute": {"gpus": 0},
}


def recipe(endpoint: str, **changes: Any) -> run.Run:
    """The run of a small fine-tune of the model on the claim `models`; changes replace whole parts of the spec."""
    spec = {
        "baseModel": {"uri": "pvc://models/tiny"},
        "dataset": {"train": {"uri": "configmap://sums/train.jsonl"}},
        "output": {"uri": f"s3://{BUCKET}/team", "endpoint": endpoint, "secretRef": {"name": "storage"}},
        **SMALL,
        **changes,
    }
    return run.resolve("sums", "default", LoraFineTuneSpec.model_validate(spec), data_digests={})


@dataclass
class Pod:
    """A training pod's file system below a folder."""

    root: Path
    base: Path
    s3: fixture.S3Server

    def at(self, path: object) -> Path:
        """Where a path of the pod lies."""
        return self.root / str(path).lstrip("/")

    def holding(self, run_of_pod: run.Run, train: str) -> Pod:
        """The pod with its mounts filled."""
        for folder in (pods.RUN_DIR, pods.SECRETS_DIR / "output", pods.PVC_DIR / "models", "/dev"):
            self.at(folder).mkdir(parents=True, exist_ok=True)
        self.at(pods.RUN_DIR / run.RUN_KEY).write_text(run_of_pod.model_dump_json(by_alias=True))
        self.at(pods.RUN_DIR / run.DATA_KEYS["train"]).write_text(train)
        with contextlib.suppress(FileExistsError):
            self.at(pods.PVC_DIR / "models" / "tiny").symlink_to(self.base)
        self.secret(self.s3.access_key, self.s3.secret_key)
        return self

    def secret(self, access_key: str, secret_key: str) -> None:
        """Puts credentials into the mounted Secret."""
        folder = self.at(pods.SECRETS_DIR / "output")
        (folder / "AWS_ACCESS_KEY_ID").write_text(access_key)
        (folder / "AWS_SECRET_ACCESS_KEY").write_text(secret_key)

    def attempt(self, **settings: Any) -> outcome.Outcome:
        """Makes an attempt with these `Settings`; its termination message, whose exit code is the program's."""
        code = job.main(Settings(**settings), self.root, fixture.free_port())
        told = outcome.parse_outcome(self.at(pods.TERMINATION_LOG).read_text())
        assert told is not None
        assert told.exit_code == code
        return told

    def published(self, told: outcome.Outcome) -> tuple[Path, AdapterManifest]:
        """Folder and manifest of the adapter that an outcome names."""
        folder = self.s3.data / BUCKET / "team" / "adapters" / str(told.version)
        return folder, AdapterManifest.model_validate_json((folder / "manifest.json").read_text())


def sums() -> str:
    """Forty sums as prompt and completion, as JSON Lines."""
    dice = random.Random(3)
    pairs = [(dice.randint(1, 9), dice.randint(1, 9)) for _ in range(40)]
    return "".join(
        json.dumps({"prompt": f"{first}+{second}", "completion": str(first + second)}) + "\n" for first, second in pairs
    )

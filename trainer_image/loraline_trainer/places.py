"""Where the inputs of a run lie on this machine: mounts in a pod, options of the command line elsewhere.

Paths only; nothing is read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loraline_api import pods, run


@dataclass(frozen=True, slots=True)
class Places:
    """Paths that the recipe does not know.

    Attributes:
        work: scratch folder.
        secrets: folder of each Secret by use: `output`, `base-model`, `train`, `eval`.
        claims: folder of each pvc:// claim; a claim that is missing here lies below `claims_root`.
        data: file of each configmap:// source by part of the dataset: `train`, `eval`.
        output: publish to this folder instead of output.uri.
    """

    work: Path
    secrets: Mapping[str, Path] = field(default_factory=dict)
    claims: Mapping[str, Path] = field(default_factory=dict)
    claims_root: Path | None = None
    data: Mapping[str, Path] = field(default_factory=dict)
    output: Path | None = None

    def secret(self, use: str) -> Path | None:
        """The folder of the Secret of that use, or None when there is none."""
        folder = self.secrets.get(use)
        return folder if folder is not None and folder.is_dir() else None

    def claim(self, name: str) -> Path | None:
        """The folder where the claim is mounted, or None when it is not."""
        if name in self.claims:
            return self.claims[name]
        return self.claims_root / name if self.claims_root is not None else None


def in_pod(root: Path = Path("/")) -> Places:
    """The mounts of the training pod.

    Args:
        root: folder that stands for the pod's root folder.
    """

    def at(path: object) -> Path:
        return root / str(path).lstrip("/")

    secrets = at(pods.SECRETS_DIR)
    return Places(
        work=at(pods.WORK_DIR),
        secrets={use: secrets / use for use in ("output", "base-model", "train", "eval")},
        claims_root=at(pods.PVC_DIR),
        data={part: at(pods.RUN_DIR) / key for part, key in run.DATA_KEYS.items()},
    )

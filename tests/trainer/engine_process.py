"""One of several processes that train with the engine: `python -m trainer.engine_process BASE FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from loraline_trainer.parallel import world
from trainer.test_engine_training import trained


def main(base: Path, folder: Path) -> None:
    """Leaves losses, tokens and adapter in a file of its rank."""
    joined = world.join()
    work = joined.folder(folder / "work")
    work.mkdir(parents=True, exist_ok=True)
    steps, adapter = trained(base, work, engine=True, world=joined, microBatchSize=2)
    found = {"losses": steps.losses, "tokens": steps.tokens, "adapter": adapter}
    torch.save(found, folder / f"{joined.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Runs one row in this process: `python -m bench.gpu.one ROW.json MODEL-FOLDER RESULT.json`."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from bench.gpu import rows
from bench.gpu.rows import Row, Side


def run(row: Row, model_folder: Path) -> dict[str, Any]:
    """Trains the row and gives what was measured."""
    if row.side in (Side.OURS, Side.PEFT):
        from bench.gpu import ours

        return ours.run(row, model_folder)
    from bench.gpu import rivals

    return rivals.run(row, model_folder)


def limit_memory(budget_gib: float | None) -> None:
    """Makes the GPU look as if it had no more memory than that."""
    if budget_gib is None:
        return
    import torch

    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, budget_gib * 2**30 / total))


def main() -> None:
    """Reads the row, runs it, writes the result."""
    row = rows.load(json.loads(Path(sys.argv[1]).read_text()))
    folder, target = Path(sys.argv[2]), Path(sys.argv[3])
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if row.side in (Side.OURS, Side.PEFT):
        from loraline_trainer import cli

        cli.before_torch()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    if row.side is not Side.UNSLOTH:
        limit_memory(row.budget_gib)
    found = run(row, folder)
    if os.environ.get("RANK", "0") == "0":
        target.write_text(json.dumps(found))


if __name__ == "__main__":
    main()

"""The state of every random number generator that training draws from, as transformers' Trainer reads it back."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

RandomState = dict[str, Any]


def capture() -> RandomState:
    """The generators' states at this moment; costs tens of microseconds and no wait for a GPU."""
    state: RandomState = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        state["cuda"] = torch.cuda.get_rng_state_all() if is_distributed else torch.cuda.get_rng_state()
    return state


def write(states: list[RandomState], folder: Path) -> None:
    """Writes the states of all processes, by rank (transformers 5.23: Trainer._save_rng_state, _load_rng_state)."""
    for rank, state in enumerate(states):
        torch.save(state, folder / ("rng_state.pth" if len(states) == 1 else f"rng_state_{rank}.pth"))

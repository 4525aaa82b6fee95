"""Trains a row with our trainer as a pod does: its loader, its adapter, its planner, its engine."""

from __future__ import annotations

import itertools
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import transformers

from bench.gpu import tokens
from bench.gpu.clock import Clock
from bench.gpu.rows import Data, Row, Side
from loraline_api import run as runs
from loraline_api.finetune import DatasetFormat, LoraFineTuneSpec, MemoryProfile
from loraline_trainer.data.preparation import Prepared
from loraline_trainer.data.rendering import IGNORED, TokenRow
from loraline_trainer.engine import switches
from loraline_trainer.model import loading, lora
from loraline_trainer.model import tokenizer as tokenizers
from loraline_trainer.parallel import world
from loraline_trainer.progress import Tracker
from loraline_trainer.storage.base_model import BaseModel
from loraline_trainer.training.fit import fit

LEARNING_RATE = {Data.FIXED: 2e-4, Data.SHORT: 2e-4, Data.LEARNABLE: 1e-3}
"""The rivals' own for speed; for the curve one that learns something in 200 steps."""


class Marks(transformers.TrainerCallback):
    """Passes the ends of steps on to the clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The first step begins."""
        self._clock.begin()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The rows of a step are there."""
        self._clock.lap("rows")

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The gradients are there, clipped."""
        self._clock.lap("gradients")

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The optimizer has stepped."""
        self._clock.lap("optimizer")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step was queued to its end."""
        self._clock.lap("end")
        self._clock.end_step()


class Recorder(Tracker):
    """Remembers loss and tokens of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: dict[int, float] = {}
        self.tokens: dict[int, int] = {}

    def step(self, *, step: int, loss: float, tokens: int, **others: Any) -> None:
        """Takes in one optimizer step."""
        super().step(step=step, loss=loss, tokens=tokens, **others)
        self.losses[step], self.tokens[step] = loss, tokens


def run(row: Row, model_folder: Path) -> dict[str, Any]:
    """Trains the row and gives what was measured."""
    recipe, together = recipe_of(row), world.join()
    base = BaseModel(model_folder, row.model, None, json.loads((model_folder / "config.json").read_text()))
    tokenizer = tokenizers.load(recipe, base)
    clock, recorder = Clock(row.warmup), Recorder()
    loaded = loading.load(recipe, base, tokenizer)
    model = lora.attach(recipe, loaded)
    prepared = prepared_of(row, tokenizer, loaded.model.config.get_text_config().vocab_size)
    off = dict.fromkeys(row.switches, False)
    with tempfile.TemporaryDirectory() as work, switches.switched(**off):
        fit(
            recipe,
            model,
            loaded,
            prepared,
            work=Path(work),
            world=together,
            tracker=recorder,
            profile=MemoryProfile(row.policy),
            engine_wanted=False if row.side is Side.PEFT else None,
            observers=[Marks(clock)],
        )
    steps = sorted(recorder.losses)
    totals = [0, *(recorder.tokens[step] for step in steps)]
    clock.losses = [recorder.losses[step] for step in steps]
    clock.tokens = [after - before for before, after in itertools.pairwise(totals)]
    told = recorder.now
    parts = clock.parts_ms()
    logging.info("bench: ms on the GPU and on the host: %s", parts)
    return clock.result() | {"engine": told.engine, "memory_plan": told.memory_plan, "parts_ms": parts}


def recipe_of(row: Row) -> runs.Run:
    """The run that a user's manifest of this row would be."""
    spec = {
        "baseModel": {"uri": f"pvc://models/{row.model}"},
        "dataset": {"train": {"uri": "pvc://data/train.jsonl"}, "evalFraction": 0},
        "output": {"uri": "s3://bench/adapters"},
        "adapter": {"rank": row.rank},
        "quantization": {"computeDtype": row.compute_dtype},
        "training": {
            "maxSteps": row.warmup + row.steps,
            "batchSize": row.batch,
            "microBatchSize": row.micro,
            "maxSeqLength": row.seq,
            "optimizer": row.optimizer,
            "scheduler": "linear",
            "warmupRatio": 0.02,
            "learningRate": LEARNING_RATE[row.data],
            "seed": row.seed,
        },
    }
    return runs.resolve("bench", "default", LoraFineTuneSpec.model_validate(spec), data_digests={})


def prepared_of(row: Row, tokenizer: Any, vocabulary: int) -> Prepared:
    """The row's tokens as a checked dataset; every token counts, as with the rivals."""
    steps = row.warmup + row.steps
    if row.data is Data.SHORT:
        texts = tokens.texts(steps * row.batch, row.seq)
        ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    else:
        ids = tokens.ids(row, steps * row.batch, vocabulary)
    return Prepared(DatasetFormat.PROMPT_COMPLETION, tuple(_row(one) for one in ids), (), (), "bench")


def _row(ids: list[int]) -> TokenRow:
    return TokenRow("bench", tuple(ids), (IGNORED, *ids[1:]), 1, len(ids), True)

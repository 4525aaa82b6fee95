"""Trains a model that has its adapter: plans the steps, says what was planned, and takes them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import transformers

from loraline_api import run
from loraline_api.finetune import MemoryProfile
from loraline_trainer import memory
from loraline_trainer.checkpoints.finding import Found
from loraline_trainer.data.preparation import Prepared
from loraline_trainer.evaluation import scoring
from loraline_trainer.model.loading import Loaded
from loraline_trainer.parallel.world import ALONE, World
from loraline_trainer.progress import Tracker
from loraline_trainer.training import engine_choice, plan, train
from loraline_trainer.training.engine_choice import Drive
from loraline_trainer.training.saving import Saving

log = logging.getLogger(__name__)


def fit(
    recipe: run.Run,
    model: Any,
    loaded: Loaded,
    prepared: Prepared,
    *,
    work: Path,
    tracker: Tracker,
    world: World = ALONE,
    profile: MemoryProfile = MemoryProfile.AUTO,
    engine_wanted: bool | None = None,
    saving: Saving | None = None,
    resumed: Found | None = None,
    observers: Sequence[transformers.TrainerCallback] = (),
) -> train.Trained:
    """Trains the adapter in place.

    Args:
        profile: how the engine's planner spends GPU memory.
        engine_wanted: None wants the engine on a GPU.
        saving: saves training as it goes.
        resumed: the checkpoint that training goes on from.
        observers: are called at every step, as the progress is.
    """
    drive = _drive(recipe, model, loaded, prepared, profile=profile, wanted=engine_wanted, tracker=tracker, world=world)
    shape = loaded.model.config.get_text_config()
    machine = memory.machine(shape.num_hidden_layers, shape.hidden_size)
    resolved = world.from_first(
        lambda: plan.resolve(
            recipe.training,
            machine,
            examples=len(prepared.train),
            longest=prepared.longest,
            world_size=world.size,
            saved_micro_batch=resumed.state.micro_batch_size if resumed is not None else None,
            micro_batch=drive.memory.micro_batch if drive is not None else None,
        )
    )
    for setting in resolved.settings:
        note = f" ({setting.note})" if setting.note else ""
        log.info("hyperparameter %s = %s [%s]%s", setting.name, setting.value, setting.source, note)
    return train.train(
        model,
        loaded,
        prepared,
        recipe.training,
        resolved,
        tracker=tracker,
        work=work,
        world=world,
        score_held_out=_scorer(model, loaded, prepared, world),
        saving=saving,
        resumed=resumed,
        drive=drive,
        observers=observers,
    )


def _scorer(model: Any, loaded: Loaded, prepared: Prepared, world: World) -> Callable[[], float]:
    return lambda: world.from_first(lambda: scoring.loss(model, loaded, prepared.held_out))


def _drive(
    recipe: run.Run,
    model: Any,
    loaded: Loaded,
    prepared: Prepared,
    *,
    profile: MemoryProfile,
    wanted: bool | None,
    tracker: Tracker,
    world: World,
) -> Drive | None:
    """The engine with its plan, or None; says which."""
    in_fp8 = recipe.quantization.compute_dtype == "float8"
    choice = engine_choice.choose(model, loaded, wanted=wanted, in_fp8=in_fp8)
    text = f"on{', frozen products in FP8' if in_fp8 else ''}" if choice.engine is not None else f"off: {choice.reason}"
    log.info("engine %s", text)
    tracker.tell_engine(text)
    if choice.engine is None:
        return None
    lengths = [len(row.ids) for row in prepared.train]
    share = plan.share_of(recipe.training, world.size)
    return engine_choice.drive(choice.engine, model, recipe.training, lengths, profile=profile, batch_size=share)

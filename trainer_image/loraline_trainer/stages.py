"""The stages of an attempt that has its inputs on this machine: load, score, train, evaluate, publish.

Every process goes through them; the first one evaluates, saves and publishes for all. Fetching is `chain`'s work.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraline_api import run
from loraline_api.outcome import ExitCode, Outcome
from loraline_api.progress import Stage
from loraline_trainer import errors, memory, numbers, publishing, resuming
from loraline_trainer.checkpoints import manifest
from loraline_trainer.checkpoints.catalog import Catalog
from loraline_trainer.checkpoints.finding import Found, Wanted
from loraline_trainer.checkpoints.keeping import Keeper
from loraline_trainer.data.preparation import Prepared
from loraline_trainer.data.rendering import Renderer
from loraline_trainer.ending import Report
from loraline_trainer.evaluation import evaluate, gates, scores
from loraline_trainer.evaluation.scores import Scores
from loraline_trainer.interruption import Interruption
from loraline_trainer.model import loading, lora
from loraline_trainer.model.loading import Loaded
from loraline_trainer.parallel.world import World
from loraline_trainer.places import Places
from loraline_trainer.progress import Tracker
from loraline_trainer.settings import Settings
from loraline_trainer.storage import base_model, stores
from loraline_trainer.storage.base_model import BaseModel
from loraline_trainer.training import train
from loraline_trainer.training.fit import fit
from loraline_trainer.training.saving import Saving

log = logging.getLogger(__name__)

LAST_WORDS_S = 90.0
"""Time that an ending attempt waits for its last checkpoint: the grace period of 120 s less what stopping takes."""


@contextlib.contextmanager
def _finishing(keeper: Keeper | None) -> Iterator[None]:
    """Waits at the end of the block, whatever it was, for the checkpoint that is being stored."""
    try:
        yield
    finally:
        if keeper is not None and not keeper.wait(LAST_WORDS_S):
            log.warning("the last checkpoint is not stored after %.0f s", LAST_WORDS_S)


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt and what all of its stages share."""

    recipe: run.Run
    places: Places
    tracker: Tracker
    interruption: Interruption
    settings: Settings
    world: World
    store: stores.Store
    base: BaseModel
    renderer: Renderer
    prepared: Prepared

    def make(self) -> Report | None:
        """Publishes the adapter; the first process reports for all."""
        gates.check_measurable(self.recipe.evaluation.gates, bool(self.prepared.held_out))
        identity = base_model.identity(self.base, self.recipe.base_model.uri)
        wanted = Wanted(manifest.inputs_digest(self.recipe, identity, self.prepared), self.world.size)
        catalog = Catalog(self.store, self.recipe.id)
        resumed = resuming.find(catalog, wanted, self.places.work, self.tracker, self.world)
        self.tracker.enter(Stage.LOADING_MODEL)
        loaded = loading.load(self.recipe, self.base, self.renderer.tokenizer)
        before = resumed.state.base_scores if resumed is not None else None
        if before is None:
            before = self._evaluated(Stage.SCORING_BASE, loaded.model, loaded)
        self.tracker.enter(Stage.TRAINING)
        model = lora.attach(self.recipe, loaded)
        keeper = self._keeper(catalog, wanted, resumed)
        saving = Saving(self.settings, keeper, self.interruption, self.world, before, self.places.work)
        with _finishing(keeper):
            trained = self._trained(model, loaded, saving, resumed)
            after = self._evaluated(Stage.EVALUATING, model, loaded)
            gates.check(self.recipe.evaluation.gates, after.metrics)
        if keeper is None:
            return None
        self.tracker.enter(Stage.PUBLISHING)
        folder = self._exported(model, loaded, trained.steps)
        described = publishing.manifest_of(
            self.recipe,
            folder,
            base_model=identity,
            target_modules=lora.target_modules(folder),
            metrics=scores.results(before, after),
            dataset_digest=self.prepared.digest,
        )
        published = publishing.publish(self.store, folder, described)
        keeper.remove_all()
        self.tracker.enter(Stage.FINISHED)
        sizes = {
            "trainable_parameters": sum(value.numel() for value in lora.trained_parameters(model).values()),
            "total_parameters": loaded.total_parameters,
        }
        outcome = self._succeeded(trained, published, before, after).model_copy(update=sizes)
        return Report(outcome, trained, memory.peak_bytes())

    def _evaluated(self, stage: Stage, model: Any, loaded: Loaded) -> Scores:
        self.tracker.enter(stage)
        evaluation = self.recipe.evaluation
        return self.world.from_first(lambda: evaluate.evaluate(model, loaded, self.prepared, self.renderer, evaluation))

    def _keeper(self, catalog: Catalog, wanted: Wanted, resumed: Found | None) -> Keeper | None:
        """Keeps the checkpoints of this attempt; the first process keeps them for all."""
        if not self.world.is_first:
            return None
        number = self.settings.attempt or (resumed.manifest.attempt + 1 if resumed is not None else 1)
        keep = self.settings.checkpoint.keep
        keeper = Keeper(catalog, wanted, attempt=number, keep=keep, tracker=self.tracker)
        if resumed is not None:
            keeper.begin_with(resumed)
        return keeper

    def _trained(self, model: Any, loaded: Loaded, saving: Saving, resumed: Found | None) -> train.Trained:
        try:
            with self.interruption.deferred():
                return fit(
                    self.recipe,
                    model,
                    loaded,
                    self.prepared,
                    work=self.places.work,
                    tracker=self.tracker,
                    world=self.world,
                    profile=self.settings.memory_profile,
                    saving=saving,
                    resumed=resumed,
                )
        except errors.LossNotFinite as error:
            raise resuming.with_last_good(error, saving.keeper) from error

    def _exported(self, model: Any, loaded: Loaded, steps: int) -> Path:
        folder = self.places.work / "adapter"
        shutil.rmtree(folder, ignore_errors=True)
        lora.export(model, loaded.tokenizer, self.base.name, folder)
        lora.check_weights(folder, self.recipe.training.learning_rate, steps)
        return folder

    def _succeeded(
        self, trained: train.Trained, published: publishing.Published, before: Scores, after: Scores
    ) -> Outcome:
        checkpoint = self.tracker.now.checkpoint
        resumed = f" ({checkpoint.resumed})" if checkpoint is not None and checkpoint.resumed else ""
        return Outcome(
            run_id=self.recipe.id,
            exit_code=ExitCode.SUCCEEDED,
            message=f"trained {trained.steps} steps in {numbers.seconds(trained.seconds)}{resumed} and published the "
            f"adapter {published.manifest.version}",
            version=published.manifest.version,
            uri=published.uri,
            steps=trained.steps,
            train_loss=numbers.text(trained.loss),
            tokens_per_second=trained.tokens_per_second,
            checkpoint=checkpoint,
            metrics=scores.results(before, after),
            samples=scores.samples(before, after),
        )

"""An attempt from beginning to end: the stages of `loraline_api.progress.Stage` in order.

Knows neither pods nor terminals: `job` and `local` give it places and look at its tracker. What follows on fetching is
in `stages`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from loraline_api import run
from loraline_api.outcome import ExitCode, Outcome
from loraline_api.progress import Stage
from loraline_trainer import errors, importing, memory, publishing
from loraline_trainer.checkpoints import keeping
from loraline_trainer.checkpoints.catalog import Catalog
from loraline_trainer.data import preparation, preview
from loraline_trainer.data.preparation import Prepared
from loraline_trainer.data.rendering import Renderer
from loraline_trainer.ending import Report
from loraline_trainer.interruption import Interruption
from loraline_trainer.model import tokenizer
from loraline_trainer.parallel.world import ALONE, World
from loraline_trainer.places import Places
from loraline_trainer.progress import Tracker
from loraline_trainer.settings import Settings
from loraline_trainer.storage import base_model, dataset, s3, stores
from loraline_trainer.storage.base_model import BaseModel

log = logging.getLogger(__name__)

DEFAULTS = Settings()


def attempt(
    recipe: run.Run,
    places: Places,
    tracker: Tracker,
    interruption: Interruption,
    *,
    settings: Settings = DEFAULTS,
    world: World = ALONE,
) -> Report | None:
    """Publishes the adapter of a run, or finds the one that was published before; None in all processes but the first.

    Raises:
        TrainerError: it ends without an adapter; the error says why.
    """
    store = store_of(recipe, places)
    found = world.from_first(lambda: publishing.find(store, recipe.id))
    if found is not None:
        tracker.end_training()
        tracker.enter(Stage.FINISHED)
        if not world.is_first:
            return None
        keeping.remove(Catalog(store, recipe.id))  # an attempt may have ended between publishing and this
        return Report(_reused(recipe, found), None, memory.peak_bytes())
    world.from_first(lambda: publishing.check_writable(store, recipe.id))
    places.work.mkdir(parents=True, exist_ok=True)
    with _explained_out_of_memory(recipe, tracker):
        base, renderer, prepared = world.in_turn(lambda: prepare(recipe, places, tracker, weights=True))
        with importing.without_collector():
            from loraline_trainer.stages import Attempt  # PEFT and TRL: seconds that no bad dataset waits for

        return Attempt(recipe, places, tracker, interruption, settings, world, store, base, renderer, prepared).make()


def store_of(recipe: run.Run, places: Places) -> stores.Store:
    """Where the adapter is published."""
    if places.output is not None:
        return stores.FolderStore(places.output)
    output = recipe.output
    access = s3.Access(output.endpoint, output.region, places.secret("output"), "output")
    return stores.S3Store(output.uri.rstrip("/"), access)


def prepare(
    recipe: run.Run, places: Places, tracker: Tracker, *, weights: bool
) -> tuple[BaseModel, Renderer, Prepared]:
    """Base model and data on this machine, checked; a preview of the loss mask goes to the log.

    Args:
        weights: fetch the base model's weights too.
    """
    tracker.enter(Stage.FETCHING)
    parts = {"train": recipe.dataset.train, "eval": recipe.dataset.eval}
    fetched = {
        part: dataset.fetch(recipe, part, source, places) for part, source in parts.items() if source is not None
    }
    base = base_model.fetch(recipe, places, weights=weights)
    tracker.enter(Stage.PREPARING_DATA)
    tokens = tokenizer.load(recipe, base)
    stop_ids = preparation.stop_ids(tokens, tokenizer.generation_eos(base), base.name)
    renderer = Renderer(tokens, stop_ids, recipe.dataset.loss_on, recipe.training.max_seq_length)
    prepared = preparation.prepare(recipe, renderer, lambda part, source: fetched[part])
    for line in preview.lines(tokens, prepared.train):
        log.info("preview | %s", line)
    return base, renderer, prepared


def _reused(recipe: run.Run, found: publishing.Published) -> Outcome:
    log.info("run %s has the adapter %s already; nothing to train", recipe.id, found.manifest.version)
    return Outcome(
        run_id=recipe.id,
        exit_code=ExitCode.SUCCEEDED,
        message=f"the adapter {found.manifest.version} of these inputs was there already; nothing was trained",
        version=found.manifest.version,
        uri=found.uri,
        reused=True,
        metrics=found.manifest.metrics,
    )


@contextmanager
def _explained_out_of_memory(recipe: run.Run, tracker: Tracker) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        free, total = torch.cuda.mem_get_info()
        raise errors.CudaOutOfMemory(
            f"the GPU ran out of memory in stage {tracker.now.stage.value}: {(total - free) / 2**30:.1f} of "
            f"{total / 2**30:.1f} GiB were in use; set training.microBatchSize lower, lower training.maxSeqLength "
            f"({recipe.training.max_seq_length}), or name a larger GPU in compute.gpuType"
        ) from error

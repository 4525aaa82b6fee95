"""An attempt from beginning to end: the stages of `loraline_api.progress.Stage` in order.

Knows neither pods nor terminals: `job` and `local` give it places and look at its tracker.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from loraline_api import run
from loraline_api.finetune import MemoryProfile
from loraline_api.outcome import ExitCode, Outcome
from loraline_api.progress import Stage
from loraline_trainer import errors, memory, numbers, publishing
from loraline_trainer.data import preparation, preview
from loraline_trainer.data.preparation import Prepared
from loraline_trainer.data.rendering import Renderer
from loraline_trainer.evaluation import evaluate, gates, scoring
from loraline_trainer.evaluation.evaluate import Scores
from loraline_trainer.model import loading, lora
from loraline_trainer.model.loading import Loaded
from loraline_trainer.places import Places
from loraline_trainer.progress import Tracker
from loraline_trainer.storage import base_model, dataset, s3, stores
from loraline_trainer.storage.base_model import BaseModel
from loraline_trainer.training import engine_choice, plan, train
from loraline_trainer.training.engine_choice import Drive

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """What an attempt did, for people.

    Attributes:
        trained: None when the adapter was there already.
    """

    outcome: Outcome
    trained: train.Trained | None
    peak_bytes: int


def attempt(
    recipe: run.Run, places: Places, tracker: Tracker, *, profile: MemoryProfile = MemoryProfile.AUTO
) -> Report:
    """Publishes the adapter of a run, or finds the one that was published before.

    Args:
        profile: how training spends GPU memory.

    Raises:
        TrainerError: it ends without an adapter; the error says why.
    """
    store = store_of(recipe, places)
    found = publishing.find(store, recipe.id)
    if found is not None:
        tracker.end_training()
        tracker.enter(Stage.FINISHED)
        return Report(_reused(recipe, found), None, memory.peak_bytes())
    publishing.check_writable(store, recipe.id)
    places.work.mkdir(parents=True, exist_ok=True)
    with _explained_out_of_memory(recipe, tracker):
        return _train_and_publish(recipe, places, tracker, store, profile)


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
    tokenizer = loading.tokenizer(recipe, base)
    stop_ids = preparation.stop_ids(tokenizer, loading.generation_eos(base), base.name)
    renderer = Renderer(tokenizer, stop_ids, recipe.dataset.loss_on, recipe.training.max_seq_length)
    prepared = preparation.prepare(recipe, renderer, lambda part, source: fetched[part])
    for line in preview.lines(tokenizer, prepared.train):
        log.info("preview | %s", line)
    return base, renderer, prepared


def _train_and_publish(
    recipe: run.Run, places: Places, tracker: Tracker, store: stores.Store, profile: MemoryProfile
) -> Report:
    base, renderer, prepared = prepare(recipe, places, tracker, weights=True)
    gates.check_measurable(recipe.evaluation.gates, bool(prepared.held_out))

    tracker.enter(Stage.LOADING_MODEL)
    identity = base_model.identity(base, recipe.base_model.uri)
    loaded = loading.load(recipe, base, renderer.tokenizer)

    tracker.enter(Stage.SCORING_BASE)
    before = evaluate.evaluate(loaded.model, loaded, prepared, renderer, recipe.evaluation)

    tracker.enter(Stage.TRAINING)
    model = lora.attach(recipe, loaded)
    trained = fit(recipe, model, loaded, prepared, work=places.work, tracker=tracker, profile=profile)

    tracker.enter(Stage.EVALUATING)
    after = evaluate.evaluate(model, loaded, prepared, renderer, recipe.evaluation)
    gates.check(recipe.evaluation.gates, after.metrics)

    tracker.enter(Stage.PUBLISHING)
    folder = places.work / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    lora.export(model, loaded.tokenizer, base.name, folder)
    lora.check_weights(folder, recipe.training.learning_rate, trained.steps)
    metrics = evaluate.results(before, after)
    manifest = publishing.manifest_of(
        recipe, folder, base_model=identity, metrics=metrics, dataset_digest=prepared.digest
    )
    published = publishing.publish(store, folder, manifest)

    tracker.enter(Stage.FINISHED)
    outcome = _succeeded(recipe, trained, published, before, after).model_copy(
        update={
            "trainable_parameters": sum(value.numel() for value in lora.trained_parameters(model).values()),
            "total_parameters": loaded.total_parameters,
        }
    )
    return Report(outcome, trained, memory.peak_bytes())


def fit(
    recipe: run.Run,
    model: Any,
    loaded: Loaded,
    prepared: Prepared,
    *,
    work: Path,
    tracker: Tracker,
    profile: MemoryProfile = MemoryProfile.AUTO,
    engine_wanted: bool | None = None,
    observers: Sequence[transformers.TrainerCallback] = (),
) -> train.Trained:
    """Trains a model that has its adapter: plans the steps, says what was planned, and takes them.

    Args:
        profile: how the engine's planner spends GPU memory.
        engine_wanted: None wants the engine on a GPU.
        observers: are called at every step, as the progress is.
    """
    shape = loaded.model.config.get_text_config()
    machine = memory.machine(shape.num_hidden_layers, shape.hidden_size)
    drive = _drive(recipe, model, loaded, prepared, profile=profile, wanted=engine_wanted, tracker=tracker)
    resolved = plan.resolve(
        recipe.training,
        machine,
        examples=len(prepared.train),
        longest=prepared.longest,
        micro_batch=drive.memory.micro_batch if drive is not None else None,
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
        score_held_out=lambda: scoring.loss(model, loaded, prepared.held_out),
        drive=drive,
        observers=observers,
    )


def _drive(
    recipe: run.Run,
    model: Any,
    loaded: Loaded,
    prepared: Prepared,
    *,
    profile: MemoryProfile,
    wanted: bool | None,
    tracker: Tracker,
) -> Drive | None:
    """The engine with its plan, or None; says which."""
    choice = engine_choice.choose(model, loaded, wanted=wanted)
    text = "on" if choice.engine is not None else f"off: {choice.reason}"
    log.info("engine %s", text)
    tracker.tell_engine(text)
    if choice.engine is None:
        return None
    lengths = [len(row.ids) for row in prepared.train]
    return engine_choice.drive(
        choice.engine, model, recipe.training, lengths, profile=profile, batch_size=recipe.training.batch_size
    )


def _succeeded(
    recipe: run.Run, trained: train.Trained, published: publishing.Published, before: Scores, after: Scores
) -> Outcome:
    return Outcome(
        run_id=recipe.id,
        exit_code=ExitCode.SUCCEEDED,
        message=f"trained {trained.steps} steps in {numbers.seconds(trained.seconds)} and published the adapter "
        f"{published.manifest.version}",
        version=published.manifest.version,
        uri=published.uri,
        steps=trained.steps,
        train_loss=numbers.text(trained.loss),
        tokens_per_second=trained.tokens_per_second,
        metrics=evaluate.results(before, after),
        samples=evaluate.samples(before, after),
    )


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

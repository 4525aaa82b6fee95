"""What a new attempt takes over from the ones before it, and what it says of that."""

from __future__ import annotations

from pathlib import Path

from loraline_api.progress import MAX_DAMAGED, MAX_PROBLEM_CHARS
from loraline_trainer import errors
from loraline_trainer.checkpoints import finding
from loraline_trainer.checkpoints.catalog import Catalog
from loraline_trainer.checkpoints.finding import Found, Wanted
from loraline_trainer.checkpoints.keeping import Keeper
from loraline_trainer.parallel.world import World
from loraline_trainer.progress import Tracker


def find(catalog: Catalog, wanted: Wanted, work: Path, tracker: Tracker, world: World) -> Found | None:
    """The checkpoint to go on from, on the disk of every process; None when training begins anew."""
    search = world.from_first(lambda: finding.newest(catalog, wanted, work))
    found = search.found
    if found is not None and not world.is_first:
        found = finding.fetched(catalog, found.name, found.manifest, world.folder(work))
    news: dict[str, object] = {
        "damaged": [text[:MAX_PROBLEM_CHARS] for text in search.damaged[:MAX_DAMAGED]],
        "problem": search.problem[:MAX_PROBLEM_CHARS] if search.problem is not None else None,
    }
    if found is not None:
        news |= {
            "resumed_step": found.manifest.step,
            "resumed_attempt": found.manifest.attempt,
            "saved_step": found.manifest.step,
        }
    if any(news.values()):
        tracker.checkpoint(**news)
    return found


def with_last_good(error: errors.LossNotFinite, keeper: Keeper | None) -> errors.LossNotFinite:
    """The error, and which checkpoint was saved before it."""
    if keeper is None or not keeper.wait() or keeper.last_good is None:
        return error
    return errors.LossNotFinite(f"{error}; the last good checkpoint is {keeper.last_good}")

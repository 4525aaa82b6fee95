"""Checkpoints in a store: complete or absent, verified, the newest few kept, the damaged ones passed over."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from loraline_api.progress import CheckpointProgress
from loraline_trainer import errors
from loraline_trainer.checkpoints import finding
from loraline_trainer.checkpoints import state as states
from loraline_trainer.checkpoints.catalog import Catalog
from loraline_trainer.checkpoints.finding import Search, Wanted
from loraline_trainer.checkpoints.keeping import Keeper
from loraline_trainer.checkpoints.state import TrainingState
from loraline_trainer.progress import Tracker
from loraline_trainer.storage.stores import FolderStore

RUN = "1a2b3c4d5e"
WANTED = Wanted("ab" * 32, 1)


class Saved:
    """Checkpoints of a run in a folder."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.tracker = Tracker()
        self.catalog = Catalog(FolderStore(folder / "out"), RUN)
        self.keeper = Keeper(self.catalog, WANTED, attempt=1, keep=keep, tracker=self.tracker)

    def save(self, *steps: int) -> Saved:
        """Saves these steps, one after the other."""
        for step in steps:
            folder = self.folder / "writing"
            folder.mkdir(parents=True)
            (folder / "optimizer.pt").write_bytes(b"moments of step %d" % step)
            numbers = TrainingState(
                step=step, is_over=False, tokens=9 * step, seconds=1.5, loss=0.5, micro_batch_size=4
            )
            states.write(numbers, folder)
            self.keeper.store(folder, step)
            self.keeper.wait()
        return self

    def at(self, step: int) -> Path:
        """The folder of the checkpoint of that step."""
        (found,) = (self.folder / "out" / "checkpoints" / RUN).glob(f"{step:08d}-*")
        return found

    @property
    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, newest first."""
        return [int(name.partition("-")[0]) for name in self.catalog.complete()]

    def newest(self, wanted: Wanted = WANTED) -> Search:
        """What a new attempt finds."""
        return finding.newest(self.catalog, wanted, self.folder / "work")


def test_the_newest_are_kept_and_the_rest_is_removed(tmp_path: Path) -> None:
    saved = Saved(tmp_path, keep=2).save(10, 20, 30)
    assert saved.steps == [30, 20]
    assert len(list((tmp_path / "out" / "checkpoints" / RUN).iterdir())) == 2
    saved.keeper.remove_all()
    assert not list((tmp_path / "out").rglob("*.*"))
    assert saved.steps == []


def test_a_new_attempt_finds_the_newest_with_its_files(tmp_path: Path) -> None:
    found = Saved(tmp_path).save(10, 20).newest().found
    assert found is not None
    assert (str(found), found.state.tokens) == ("step 20 of attempt 1", 180)
    assert (found.folder / "optimizer.pt").read_bytes() == b"moments of step 20"


def truncate(folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes(b"moments")


def change(folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes(b"moments of step 21")


def lose(folder: Path) -> None:
    (folder / "optimizer.pt").unlink()


def garble(folder: Path) -> None:
    (folder / "manifest.json").write_text("{}")


def move(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "step": 30}))


def escape(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"optimizer.pt"', '"../../passwd"'))


DAMAGES = [
    pytest.param(truncate, "optimizer.pt has 7 bytes instead of 18", id="cut short"),
    pytest.param(change, "optimizer.pt has another sha256 than its manifest says", id="other bytes"),
    pytest.param(lose, "optimizer.pt is missing", id="a file that is gone"),
    pytest.param(garble, "manifest.json is not the manifest of a checkpoint", id="a manifest that is none"),
    pytest.param(move, "manifest.json speaks of step 30 of run 1a2b3c4d5e", id="a manifest of another step"),
    pytest.param(escape, "manifest.json names the file '../../passwd'", id="a manifest that leads elsewhere"),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGES)
def test_a_damaged_checkpoint_is_told_and_the_next_older_one_taken(
    tmp_path: Path, damage: Callable[[Path], None], expected: str
) -> None:
    saved = Saved(tmp_path).save(10, 20)
    damage(saved.at(20))
    search = saved.newest()
    assert search.damaged == (f"step 20: {expected}",)
    assert search.found is not None
    assert search.found.manifest.step == 10


def test_a_checkpoint_without_a_manifest_is_absent_and_goes_with_the_next_one(tmp_path: Path) -> None:
    """What an attempt leaves that was killed while it stored one."""
    saved = Saved(tmp_path).save(10, 20)
    (saved.at(20) / "manifest.json").unlink()
    search = saved.newest()
    assert search.damaged == ()
    assert search.found is not None
    assert search.found.manifest.step == 10
    saved.keeper.begin_with(search.found)
    saved.save(30)
    assert not list((tmp_path / "out" / "checkpoints" / RUN).glob("00000020-*/optimizer.pt"))


def test_a_damaged_checkpoint_does_not_push_out_a_good_one(tmp_path: Path) -> None:
    saved = Saved(tmp_path).save(10, 20)
    lose(saved.at(20))
    found = saved.newest().found
    assert found is not None
    saved.keeper.begin_with(found)
    assert saved.save(15).steps == [15, 10]


MISFITS = [
    pytest.param(Wanted("cd" * 32, 1), "the dataset or the base model has changed since", id="other inputs"),
    pytest.param(Wanted("ab" * 32, 2), "1 processes saved it, and 2 train now", id="another number of processes"),
]


@pytest.mark.parametrize(("wanted", "expected"), MISFITS)
def test_a_checkpoint_that_would_lead_elsewhere_is_not_used(tmp_path: Path, wanted: Wanted, expected: str) -> None:
    search = Saved(tmp_path).save(10, 20).newest(wanted)
    assert search == Search(problem=f"the checkpoint of step 20 is not used: {expected}")


def test_what_cannot_be_stored_is_a_warning_and_the_next_one_is_tried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(self: FolderStore, path: str, file: Path) -> None:
        raise errors.StorageUnavailable("http://s3:9000 did not answer")

    saved = Saved(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "put", down)
        saved.save(10)
    problem = "the checkpoint of step 10 is not stored: http://s3:9000 did not answer"
    assert saved.tracker.now.checkpoint == CheckpointProgress(problem=problem)
    assert "training goes on" in caplog.text
    saved.save(20)
    assert saved.tracker.now.checkpoint == CheckpointProgress(saved_step=20)
    assert saved.keeper.last_good is not None
    assert saved.keeper.last_good.startswith(f"step 20 at {tmp_path}/out/checkpoints/{RUN}/00000020-")


def test_training_does_not_wait_while_a_checkpoint_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go_on = threading.Event()
    put = FolderStore.put

    def slow(self: FolderStore, path: str, file: Path) -> None:
        may_go_on.wait(10)
        put(self, path, file)

    monkeypatch.setattr(FolderStore, "put", slow)
    saved = Saved(tmp_path)
    folder = tmp_path / "writing"
    folder.mkdir()
    (folder / "optimizer.pt").write_bytes(b"x")
    saved.keeper.store(folder, 10)
    assert saved.keeper.is_busy
    assert not saved.keeper.wait(0.01)
    may_go_on.set()
    assert saved.keeper.wait(10)
    assert saved.steps == [10]

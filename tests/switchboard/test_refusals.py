"""Bad adapters beside a good one: each is refused with its reason, and the good one answers all the time."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from loraline_api.routing import RouteVersion, SwitchboardState, VersionPhase
from switchboard import harness
from switchboard.harness import BUCKET, S3, Switchboard, Vllm, route, until

WEIGHTS = "adapter_model.safetensors"


@dataclass
class Bad:
    """Makes bad adapters from a good one and publishes them."""

    s3: S3
    base: Path
    good: Path
    folder: Path

    def copy(self, name: str) -> Path:
        """A copy of the good adapter."""
        return Path(shutil.copytree(self.good, self.folder / name))

    def nan(self) -> RouteVersion:
        """One value is not a number."""
        folder = self.copy("nan")
        tensors = load_file(folder / WEIGHTS)
        tensors[sorted(tensors)[3]][0, 0] = float("nan")
        save_file(tensors, folder / WEIGHTS)
        return self.s3.publish(folder, self.base)

    def truncated(self) -> RouteVersion:
        """A file that was cut before it was published."""
        folder = self.copy("truncated")
        text = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(text[: len(text) // 2])
        return self.s3.publish(folder, self.base)

    def swapped(self) -> RouteVersion:
        """A file that was changed after it was published."""
        folder = self.copy("swapped")
        (folder / "README.md").write_text("as published")
        version = self.s3.publish(folder, self.base)
        self.s3.client.put_object(Bucket=BUCKET, Key=f"adapters/{version.version}/README.md", Body=b"as changed")
        return version

    def renamed(self) -> RouteVersion:
        """The manifest of another version."""
        folder = self.copy("renamed")
        (folder / "README.md").write_text("renamed")
        version = self.s3.publish(folder, self.base)
        manifest = self.s3.client.get_object(Bucket=BUCKET, Key=f"adapters/{version.version}/manifest.json")["Body"]
        self.s3.client.put_object(Bucket=BUCKET, Key="adapters/ffffffffffff/manifest.json", Body=manifest.read())
        return RouteVersion(version="f" * 12, uri=f"s3://{BUCKET}/adapters/{'f' * 12}")

    def other(self) -> RouteVersion:
        """An adapter of another base model."""
        folder = self.copy("other")
        (folder / "README.md").write_text("other")
        return self.s3.publish(folder, self.base, base_digest="0" * 64)

    def high(self) -> RouteVersion:
        """A rank over the server's."""
        folder = self.copy("high")
        tensors = {
            name: torch.zeros(32, value.shape[1]) if "lora_A" in name else torch.zeros(value.shape[0], 32)
            for name, value in load_file(folder / WEIGHTS).items()
        }
        save_file(tensors, folder / WEIGHTS)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"r": 32}))
        return self.s3.publish(folder, self.base, rank=32)

    def idle(self) -> RouteVersion:
        """An adapter that changes nothing."""
        folder = self.copy("idle")
        tensors = {
            name: torch.zeros_like(value) if "lora_B" in name else value
            for name, value in load_file(folder / WEIGHTS).items()
        }
        save_file(tensors, folder / WEIGHTS)
        return self.s3.publish(folder, self.base)

    def absent(self) -> RouteVersion:
        """A version that nobody published."""
        return RouteVersion(version="e" * 12, uri=f"s3://{BUCKET}/adapters/{'e' * 12}")


CASES = {
    "nan": ("Rejected", "AdapterInvalid", "has a NaN or infinite value in base_model.model.model.layers.0."),
    "truncated": ("Rejected", "AdapterInvalid", "adapter_model.safetensors is truncated: tensor base_model.model."),
    "swapped": ("Rejected", "DigestMismatch", "README.md has sha256 "),
    "renamed": ("Rejected", "DigestMismatch", "not ffffffffffff; it was changed after publishing"),
    "other": ("Rejected", "BaseModelMismatch", "was trained on s3://models/tiny (digest 000000000000), but the model"),
    "high": ("Rejected", "RankExceedsServer", "has rank 32, but the server takes ranks up to 16; raise spec.server."),
    "idle": ("Rejected", "ProbeFailed", "answers the probe exactly as the base model does"),
    "absent": ("Retrying", "AdapterNotFound", f"s3://{BUCKET}/adapters/eeeeeeeeeeee/manifest.json does not exist"),
}


@pytest.fixture(scope="module")
def state(
    tmp_path_factory: pytest.TempPathFactory, base: Path, s3: S3, vllm: Vllm, adapters: tuple[Path, Path]
) -> Iterator[SwitchboardState]:
    """The state of a switchboard that was told to hold all the bad adapters and a good one."""
    folder = tmp_path_factory.mktemp("bad")
    bad = Bad(s3, base, adapters[0], folder)
    good = s3.publish(adapters[0], base)
    board = Switchboard(folder / "board", base, s3, vllm)
    routes = [route(name, getattr(bad, name)(), serving=None) for name in CASES]
    board.wants(route("good", good, serving=good), *routes)
    harness.wait_until("the switchboard", lambda: harness.listens(board.port), 60)
    final = {VersionPhase.PROVED, VersionPhase.REJECTED, VersionPhase.RETRYING}

    def is_over(state: SwitchboardState) -> bool:
        return len(state.versions) == len(routes) + 1 and all(item.phase in final for item in state.versions)

    try:
        yield asyncio.run(until(board, is_over))
        assert asyncio.run(board.ask("good"))[0] == 200
    finally:
        board.program.stop()


@pytest.mark.parametrize("case", CASES)
def test_a_bad_adapter_is_refused_with_its_reason(state: SwitchboardState, case: str) -> None:
    phase, reason, message = CASES[case]
    (found,) = [item for item in state.versions if item.route == case]
    assert (found.phase, found.reason) == (phase, reason)
    assert message in found.message


def test_the_good_adapter_is_proved_and_the_pod_is_ready(state: SwitchboardState) -> None:
    (good,) = [item for item in state.versions if item.route == "good"]
    assert good.phase is VersionPhase.PROVED
    assert state.ready

"""Layer inputs in host memory: which copies are made, in which order, into which buffers."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from loraline_trainer.engine.offload import Offload, PlainCopies


@dataclass
class Recorder(PlainCopies):
    """Remembers what it was asked for."""

    log: list[str] = field(default_factory=list)

    def buffer(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        self.log.append(f"buffer of {count}")
        return super().buffer(count, dtype)

    def drop(self, buffer: torch.Tensor) -> None:
        self.log.append(f"drop {buffer.numel()}")

    def out(self, tensor: torch.Tensor, host: torch.Tensor) -> None:
        self.log.append(f"out {tensor.numel()}")
        super().out(tensor, host)

    def back(self, host: torch.Tensor) -> torch.Tensor:
        self.log.append(f"back {host.numel()}")
        return super().back(host)

    def wait(self) -> None:
        self.log.append("wait")


def test_what_was_parked_comes_back_as_it_was() -> None:
    offload = Offload()
    inputs = [torch.randn(5, 3, dtype=torch.bfloat16) for _ in range(4)]
    parked = [offload.park(number, one) for number, one in enumerate(inputs)]
    for one, there in zip(reversed(inputs), reversed(parked), strict=True):
        assert torch.equal(offload.fetch(there), one)


def test_an_input_that_was_prefetched_is_copied_once_and_waited_for_when_it_is_used() -> None:
    copies = Recorder()
    offload = Offload(copies)
    parked = offload.park(0, torch.ones(4))
    copies.log.clear()
    offload.prefetch(parked)
    offload.prefetch(parked)
    assert copies.log == ["back 4"]
    offload.fetch(parked)
    assert copies.log == ["back 4", "wait"]


def test_buffers_serve_every_pass_and_grow_with_the_longest() -> None:
    copies = Recorder()
    offload = Offload(copies)
    for tokens in (4, 3, 6, 5):
        offload.park(0, torch.ones(tokens))
    assert [entry for entry in copies.log if not entry.startswith("out")] == ["buffer of 4", "drop 4", "buffer of 6"]


def test_layers_do_not_share_a_buffer() -> None:
    offload = Offload()
    first, second = offload.park(0, torch.zeros(3)), offload.park(1, torch.ones(3))
    assert offload.fetch(first).tolist() == [0, 0, 0]
    assert offload.fetch(second).tolist() == [1, 1, 1]

"""The processes that train one run together, and what they agree on; alone, each question answers itself.

Waiting goes through gloo, whatever the gradients go through, and has no limit that an evaluation could run over: a
process that dies closes its connections, which ends the wait of the others at once. Starting the processes is
`parallel.launch`'s work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public by its documentation

from loraline_trainer import errors

T = TypeVar("T")

LONGEST_WAIT = timedelta(days=30)
LONGEST_STEP = timedelta(minutes=30)
"""Longest time that a process waits for the gradients of another; they set out on a step together."""

FAILURE = "loraline/failure"


@dataclass(frozen=True, slots=True)
class World:
    """This process among those that train together.

    Attributes:
        group: the processes as they talk to each other; None when this one is alone.
        store: what they tell each other without waiting.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    group: Any = None
    store: Any = None

    @property
    def is_first(self) -> bool:
        """Whether it is the one that speaks for all: evaluates, saves, publishes, tells the outcome."""
        return self.rank == 0

    def folder(self, work: Path) -> Path:
        """A scratch folder of this process alone."""
        return work if self.is_first else work / f"rank-{self.rank}"

    def in_turn(self, make: Callable[[], T]) -> T:
        """Makes it in the first process of each machine, then in the others, which find what that one fetched.

        Raises:
            TrainerError: `make` raised it, in one of them.
        """
        if self.size == 1:
            return make()
        made = self._agreed(make) if self.local_rank == 0 else self._agreed(lambda: None)
        return made if made is not None else make()

    def any(self, flag: bool) -> bool:
        """Whether it holds in one of the processes; each of them must ask."""
        if self.size == 1:
            return flag
        count = torch.tensor(int(flag))
        distributed.all_reduce(count, op=distributed.ReduceOp.MAX, group=self.group)
        return bool(count.item())

    def summed(self, values: Sequence[int]) -> list[int]:
        """The sum of each number over all processes."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.int64)
        distributed.all_reduce(sums, group=self.group)
        numbers: list[int] = sums.tolist()
        return numbers

    def sum_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        """Sums tensors of one type over all processes, in place, in one message on the way of the gradients."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def gathered(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value, group=self.group)
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, in all of them; an end of the first is the end of all.

        Raises:
            TrainerError: `make` raised it.
        """
        if self.size == 1:
            return make()
        box: list[Any] = [None, None]
        if self.is_first:
            try:
                box[0] = make()
            except errors.TrainerError as error:
                box[1] = error
        distributed.broadcast_object_list(box, src=0, group=self.group)
        if box[1] is not None:
            raise box[1]
        value: T = box[0]
        return value

    def tell_failure(self, text: str) -> None:
        """Leaves the reason of this process's end for those that only see that it has gone; the first one stays."""
        if self.store is not None:
            self.store.compare_set(FAILURE, "", text)

    def told_failure(self) -> str | None:
        """The reason that another process left."""
        if self.store is None or not self.store.check([FAILURE]):
            return None
        return str(self.store.get(FAILURE).decode())

    def _agreed(self, make: Callable[[], T]) -> T:
        """Makes it in each process, and fails in all when it fails in one."""
        made: Any = None
        failure: errors.TrainerError | None = None
        try:
            made = make()
        except errors.TrainerError as error:
            failure = error
        for other in self.gathered(failure):
            if other is not None:
                raise other
        value: T = made
        return value


ALONE = World()


def join() -> World:
    """Joins the processes that torchrun's environment tells of; alone when it tells of none."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(local_rank)
    store = TCPStore(address, port, is_master=False, timeout=LONGEST_STEP)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if has_gpu else "gloo",
        store=PrefixStore("loraline", store),
        rank=rank,
        world_size=size,
        timeout=LONGEST_STEP,
    )
    group = distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
    return World(rank, size, local_rank, group, store)

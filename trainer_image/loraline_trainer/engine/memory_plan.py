"""How a training step spends the memory of its GPU: the micro-batch, and what each layer keeps.

Pure: values in, values out. It decides three times: before the first step from shapes (`plan`), after it from what it
measured (`with_measured`), and whenever the GPU ran out of memory (`retreat`). Between these every pass gets the split
of its own tokens (`MemoryPlan.split`), so short batches keep more than the longest one.

A plan of more memory is never slower: for each micro-batch the layers that keep only become more, and the best of all
that fit is taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from loraline_api.finetune import MemoryProfile
from loraline_trainer.engine.footprint import ON_GPU, Footprint, Measured, Split

RECOMPUTE_COST = 0.31
"""Time of computing a layer again, as a share of its time without. An 8B Llama on an H100, 16,384 tokens: 1,229 ms with
all layers computed again, 935 ms with none."""

OFFLOAD_COST = 0.06
"""Time that an offloaded layer costs beyond that, likewise: 1,288 ms with all inputs in host memory."""

PASS_COST_TOKENS = 512
"""Time of a forward and backward pass that its tokens do not explain, in tokens: dequantization, and products that are
too small for the GPU. Likewise: 22 ms or 400 tokens a pass of 4,096, 58 ms or 1,000 a pass of 2,048."""

LEAN_TOKENS = 4096
"""Tokens of a lean pass: one layer's activations take 0.4 GiB (8B Llama); half as many would cost 10 % of the time."""

LEAN_LOSS_BYTES = 128 * 2**20
"""Tile of logits of a lean pass: smaller ones cost time."""

MOST_TOKENS = 65536
"""Longest pass of several rows: longer ones are no faster."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The rows that are trained on.

    Attributes:
        lengths: tokens of each row, the longest first.
        packed: whether the rows of a micro-batch lie end to end; else they are filled up to the longest.
    """

    lengths: tuple[int, ...]
    packed: bool

    def most_tokens(self, rows: int) -> int:
        """Tokens of the largest micro-batch that may come."""
        return sum(self.lengths[:rows]) if self.packed else self.lengths[0] * min(rows, len(self.lengths))

    def usual_tokens(self, rows: int) -> int:
        """Tokens of a common micro-batch."""
        mean = sum(self.lengths) / len(self.lengths) if self.packed else self.lengths[0]
        return max(1, round(mean * min(rows, len(self.lengths))))


def workload(lengths: Sequence[int], *, packed: bool) -> Workload:
    """A workload of rows in any order."""
    return Workload(tuple(sorted(lengths, reverse=True)), packed)


@dataclass(frozen=True, slots=True)
class Memory:
    """What may be spent.

    Attributes:
        gpu_bytes: for activations, after weights, gradients and optimizer.
        pinned_bytes: host memory for inputs of layers.
    """

    gpu_bytes: int
    pinned_bytes: int = 0


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What was chosen.

    Attributes:
        batch_size: rows of an optimizer step.
        micro_batch: rows that come at a time; a divisor of batch_size.
        rows: rows of a forward pass; fewer than micro_batch once the GPU ran out of memory.
        is_given: whether the recipe names the micro-batch, which then stays.
    """

    profile: MemoryProfile
    workload: Workload
    batch_size: int
    micro_batch: int
    rows: int
    is_given: bool
    memory: Memory
    footprint: Footprint

    def split(self, tokens: int) -> Split:
        """What the layers keep in a pass of that many tokens: as much as fits, or for lean as little as works."""
        layers = self.footprint.layers
        if self.profile is MemoryProfile.LEAN:
            return self.replaying(tokens, self.most_offloaded(tokens))
        keeping = (Split(layers, kept) for kept in range(layers, -1, -1))
        offloading = (self.replaying(tokens, offloaded) for offloaded in range(1, self.most_offloaded(tokens) + 1))
        fitting = (one for one in itertools.chain(keeping, offloading) if self._fits(tokens, one))
        return next(fitting, self.replaying(tokens, self.most_offloaded(tokens)))

    def replaying(self, tokens: int, offloaded: int) -> Split:
        """What takes least with that many layers offloaded: the last layer keeps unless the loss leaves no room."""
        both = (Split(self.footprint.layers, kept, offloaded) for kept in (1, 0))
        return min(both, key=lambda one: self.footprint.needed(tokens, one))

    def most_offloaded(self, tokens: int) -> int:
        """Layers whose inputs may go to the host: as many as the pinned memory holds."""
        held = int(self.memory.pinned_bytes // max(1.0, tokens * self.footprint.input_bytes))
        return min(held, max(0, self.footprint.layers - ON_GPU))

    def fits(self) -> bool:
        """Whether the largest pass fits, as far as one knows."""
        tokens = self.workload.most_tokens(self.rows)
        return self._fits(tokens, self.split(tokens))

    @property
    def cost(self) -> float:
        """Time of a token of a usual pass, in times of a token that needs nothing but its products."""
        tokens = self.workload.usual_tokens(self.rows)
        split = self.split(tokens)
        again = RECOMPUTE_COST * (split.layers - split.kept) + OFFLOAD_COST * split.offloaded
        return 1 + again / split.layers + PASS_COST_TOKENS / tokens

    def _fits(self, tokens: int, split: Split) -> bool:
        return self.footprint.needed(tokens, split) <= self.memory.gpu_bytes


def plan(
    profile: MemoryProfile,
    rows: Workload,
    memory: Memory,
    footprint: Footprint,
    *,
    batch_size: int,
    micro_batch_size: int | None = None,
) -> MemoryPlan:
    """The plan of a run before its first step.

    Args:
        batch_size: rows of an optimizer step on this GPU.
        micro_batch_size: the recipe's choice, a divisor of batch_size.
    """
    smallest = MemoryPlan(profile, rows, batch_size, 1, 1, False, memory, footprint)
    candidates = tuple(_candidates(smallest, micro_batch_size))
    fitting = [one for one in candidates if one.fits()] or [candidates[0]]
    if profile is MemoryProfile.AUTO:
        return min(fitting, key=lambda one: (one.cost, one.micro_batch))
    if profile is MemoryProfile.FAST:
        return next((one for one in reversed(fitting) if _keeps_all(one)), fitting[0])
    return next((one for one in reversed(fitting) if rows.most_tokens(one.rows) <= LEAN_TOKENS), fitting[0])


def with_measured(before: MemoryPlan, measured: Measured, memory: Memory) -> MemoryPlan:
    """The plan with the bytes of the first step in the place of reckoned ones; the micro-batch stays."""
    return replace(before, footprint=before.footprint.corrected(measured), memory=memory)


def retreat(before: MemoryPlan, tokens: int) -> MemoryPlan | None:
    """The plan after the GPU ran out of memory in a pass of that many tokens; None when nothing is left to give.

    First a quarter of the layers stops keeping, and again, until none does; then passes get half as many rows; then
    inputs go to the host. A pass of as many tokens takes less than before, or has fewer rows.
    """
    now = before.split(tokens)
    needed = before.footprint.needed(tokens, now)
    for kept in range(now.kept - max(1, now.kept // 4), -1, -1):
        if before.footprint.needed(tokens, Split(now.layers, kept)) < needed:
            return _with_budget(before, before.footprint.needed(tokens, Split(now.layers, kept)))
    if before.rows > 1 and not before.is_given:
        return replace(_with_budget(before, min(needed, before.memory.gpu_bytes)), rows=before.rows // 2)
    most = before.most_offloaded(tokens)
    for offloaded in range(min(most, now.offloaded + max(1, now.layers // 4)), most + 1):
        less = before.footprint.needed(tokens, before.replaying(tokens, offloaded))
        if less < needed:
            return _with_budget(before, less)
    return None


def explanation(chosen: MemoryPlan) -> str:
    """One sentence of what was chosen, for the longest pass."""
    tokens = chosen.workload.most_tokens(chosen.rows)
    split = chosen.split(tokens)
    parts = [f"{split.kept} of {split.layers} layers keep their activations"]
    if split.recomputed:
        parts.append(f"{split.recomputed} compute{'s' if split.recomputed == 1 else ''} them again")
    if split.offloaded:
        parts.append(f"{split.offloaded} compute{'s' if split.offloaded == 1 else ''} them again from host memory")
    longest = chosen.workload.lengths[0]
    is_full = tokens == chosen.rows * longest
    shape = f"{chosen.rows} x {longest:,} tokens" if is_full else f"{chosen.rows} rows of up to {tokens:,} tokens"
    passes = -(-chosen.batch_size // chosen.rows)
    return (
        f"{', '.join(parts)}: {_gib(chosen.footprint.needed(tokens, split))} of {_gib(chosen.memory.gpu_bytes)} GiB; "
        f"micro-batch {shape}, {passes} {'pass' if passes == 1 else 'passes'} a step"
    )


def alternatives(chosen: MemoryPlan) -> tuple[str, ...]:
    """A line for each other micro-batch: what it would have been, and why it was not taken."""
    if chosen.is_given:
        return ()
    others = _candidates(chosen, None)
    return tuple(_compared(one, chosen) for one in others if one.micro_batch != chosen.micro_batch)


def _compared(other: MemoryPlan, chosen: MemoryPlan) -> str:
    tokens = other.workload.most_tokens(other.rows)
    split = other.split(tokens)
    needed = other.footprint.needed(tokens, split)
    what = f"micro-batch {other.micro_batch}: {split.kept} of {split.layers} layers keep, {_gib(needed)} GiB"
    if not other.fits():
        return f"{what}, too much"
    slower = 100 * (other.cost / chosen.cost - 1)
    return f"{what}, {abs(slower):.0f} % {'slower' if slower >= 0 else 'faster'}"


def _candidates(model: MemoryPlan, given: int | None) -> Iterator[MemoryPlan]:
    """A plan like that one for each micro-batch, the smallest first."""
    divisors = (number for number in range(1, model.batch_size + 1) if model.batch_size % number == 0)
    bounded = itertools.takewhile(lambda number: model.workload.usual_tokens(number) <= MOST_TOKENS, divisors)
    for micro in [given] if given is not None else [1, *(number for number in bounded if number > 1)]:
        yield replace(model, micro_batch=micro, rows=micro, is_given=given is not None)


def _keeps_all(candidate: MemoryPlan) -> bool:
    split = candidate.split(candidate.workload.most_tokens(candidate.rows))
    return split.kept == split.layers


def _with_budget(before: MemoryPlan, gpu_bytes: int) -> MemoryPlan:
    return replace(before, memory=replace(before.memory, gpu_bytes=gpu_bytes))


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f}"

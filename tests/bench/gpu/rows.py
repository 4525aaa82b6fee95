"""The rows of the table: what is run, by whom, on which tokens. Pure; the order is the order of importance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any


class Side(StrEnum):
    """Who trains."""

    OURS = "ours"
    PEFT = "peft"  # our trainer without its engine: the plain path, same losses
    TRL = "trl"
    LIGER = "liger"
    UNSLOTH = "unsloth"


class Data(StrEnum):
    """The tokens."""

    FIXED = "fixed"  # random tokens, every row full
    SHORT = "short"  # random documents, log-normal lengths with a median of 256 tokens, packed
    LEARNABLE = "learnable"  # a Markov chain: something to learn


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    Attributes:
        group: what `--rows` may name for all of a kind.
        policy: ours: auto, fast, lean; rivals: on, off (activation checkpointing) or auto (Unsloth's own choice).
        batch: rows of an optimizer step.
        micro: rows of a forward pass; None lets our planner choose.
        warmup, steps: optimizer steps before and inside the measurement.
        budget_gib: GPU memory that the process may take.
        start: weights on disk: nf4 (made once) or bf16 (quantized while loading, as users do it).
        switches: engine parts that are off, for the ablation.
        layers: cuts the model to that many; None keeps all.
        gpus: how many train together, ours alone.
        seconds: what the row is expected to take, for the time budget.
    """

    name: str
    group: str
    side: Side
    policy: str
    model: str = "llama-8b"
    seq: int = 2048
    batch: int = 8
    micro: int | None = None
    data: Data = Data.FIXED
    rank: int = 16
    optimizer: str = "paged_adamw_8bit"
    compute_dtype: str = "bfloat16"
    warmup: int = 3
    steps: int = 8
    seed: int = 0
    budget_gib: float | None = None
    start: str = "nf4"
    switches: tuple[str, ...] = ()
    layers: int | None = None
    gpus: int = 1
    seconds: int = 50

    def dump(self) -> dict[str, Any]:
        """The row as JSON has it."""
        return asdict(self)


def load(values: dict[str, Any]) -> Row:
    """A row from JSON."""
    typed = {"side": Side(values["side"]), "data": Data(values["data"]), "switches": tuple(values["switches"])}
    return Row(**{**values, **typed})


def _table() -> Iterator[Row]:
    """The issue's table: each work, ours first, then the best setting of each rival."""
    ours = Row("", "table", Side.OURS, "auto")
    rival = Row("", "table", Side.UNSLOTH, "auto", seconds=60)
    short: dict[str, Any] = {"data": Data.SHORT, "batch": 48}
    packed: dict[str, Any] = {"data": Data.SHORT, "micro": 2}
    eight: dict[str, Any] = {"seq": 8192, "batch": 4, "steps": 5}
    yield replace(ours, name="ours-2048-auto")
    yield replace(rival, name="unsloth-2048-16k-auto", micro=8, steps=6)
    yield replace(ours, name="ours-2048-lean", policy="lean")
    yield replace(rival, name="unsloth-2048-default", policy="on", micro=2, steps=6)
    yield replace(ours, name="ours-short-auto", **short)
    yield replace(rival, name="unsloth-short-auto", steps=6, **packed)
    yield replace(ours, name="ours-8192-auto", **eight)
    yield replace(rival, name="unsloth-8192-auto", micro=1, **{**eight, "steps": 4})
    yield replace(rival, name="trl-2048-off", side=Side.TRL, policy="off", micro=2, steps=5)
    yield replace(rival, name="trl-short-off", side=Side.TRL, policy="off", steps=5, **packed)
    yield replace(rival, name="trl-8192-off", side=Side.TRL, policy="off", micro=1, **{**eight, "steps": 4})
    yield replace(rival, name="liger-2048-off", side=Side.LIGER, policy="off", micro=2, steps=5)
    yield replace(ours, name="ours-2048-fp8", compute_dtype="float8")
    yield replace(ours, name="ours-start", start="bf16", warmup=0, steps=1, seconds=40)
    yield replace(
        ours,
        name="ours-longest",
        policy="lean",
        seq=400_000,
        batch=1,
        micro=1,
        layers=8,
        warmup=0,
        steps=1,
        budget_gib=76.5,  # of an 80 GB card: the 24 layers that are left out have weights of 2.5 GiB
        seconds=240,
    )


def _optimizers() -> Iterator[Row]:
    for name in ("adamw", "paged_adamw_8bit", "adamw_8bit"):
        yield Row(f"ours-2048-{name}", "optimizer", Side.OURS, "auto", optimizer=name, seconds=40)


def _shapes() -> Iterator[Row]:
    """Other models, ranks and lengths, ours and Unsloth's best setting beside it."""
    pairs: dict[str, dict[str, Any]] = {
        "llama-1b": {"model": "llama-1b"},
        "qwen-7b": {"model": "qwen2.5-7b"},
        "mistral-7b": {"model": "mistral-7b"},
        "gemma-9b": {"model": "gemma2-9b"},
        "qwen-14b": {"model": "qwen2.5-14b"},
        "rank-64": {"rank": 64},
        "16k": {"seq": 16384, "batch": 2, "steps": 4},
    }
    for name, values in pairs.items():
        micro = 2 if name == "16k" else 8  # as many as ours: Unsloth then keeps what fits
        yield Row(f"ours-{name}", "shapes", Side.OURS, "auto", **values)
        yield Row(f"unsloth-{name}", "shapes", Side.UNSLOTH, "auto", micro=micro, seconds=100, **values)


def _gpus() -> Iterator[Row]:
    """Two GPUs beside one, each with the same rows."""
    for gpus in (1, 2):
        yield Row(f"ours-2048-x{gpus}", "gpus", Side.OURS, "auto", batch=8 * gpus, gpus=gpus)


ABLATION = ("fold", "nf4_kernel", "kernels", "loss_kernel", "cudnn_attention", "skip_down")
"""Switches of `loraline_trainer.engine.switches` that the ablation turns off one at a time."""


def _ablation() -> Iterator[Row]:
    for switch in ABLATION:
        yield Row(f"ours-without-{switch}", "ablation", Side.OURS, "auto", switches=(switch,), steps=5, seconds=35)


def _curve() -> Iterator[Row]:
    """200 steps of something that can be learned, ours beside PEFT's path, three seeds each."""
    for seed in (0, 1, 2):
        for side, dtype in ((Side.PEFT, "bfloat16"), (Side.OURS, "bfloat16"), (Side.OURS, "float8")):
            name = "fp8" if dtype == "float8" else side.value
            yield Row(
                f"curve-{name}-{seed}",
                "curve",
                side,
                "auto",
                model="curve",
                seq=512,
                batch=8,
                micro=8 if side is Side.PEFT else None,
                data=Data.LEARNABLE,
                compute_dtype=dtype,
                warmup=0,
                steps=200,
                seed=seed,
                seconds=45,
            )


def catalogue() -> tuple[Row, ...]:
    """All rows, the most important first."""
    return (*_table(), *_optimizers(), *_curve(), *_ablation(), *_shapes(), *_gpus())


def chosen(names: Sequence[str]) -> tuple[Row, ...]:
    """The rows with these names or of these groups, in the order of the catalogue; none named means `table`.

    Raises:
        ValueError: a name is neither a row nor a group.
    """
    everything = catalogue()
    known = {row.name for row in everything} | {row.group for row in everything}
    wanted = set(names or ["table"])
    unknown = sorted(wanted - known)
    if unknown:
        raise ValueError(
            f"--rows names {', '.join(unknown)}, which is neither a row nor a group; the groups are "
            f"{', '.join(sorted({row.group for row in everything}))}, and --list shows the rows"
        )
    return tuple(row for row in everything if wanted & {row.name, row.group})

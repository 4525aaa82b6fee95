"""How a step spends the GPU's memory; expected numbers are counted by hand from the shapes below."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraline_api.finetune import MemoryProfile
from loraline_trainer.engine import footprint, memory_plan
from loraline_trainer.engine.footprint import Footprint, Measured, Split
from loraline_trainer.engine.memory_plan import Memory, MemoryPlan, Workload
from loraline_trainer.engine.policy import LayerPolicy, LayerShape

KIB, MIB, GIB = 2**10, 2**20, 2**30

ROUND = Footprint(layers=32, kept_bytes=96 * KIB, input_bytes=8 * KIB, working_bytes=64 * KIB)
"""Round numbers near an 8B Llama's: 3 MiB a token when all layers keep, 0.25 MiB when none does."""

FULL = memory_plan.workload([2048] * 64, packed=True)


def planned(
    gib: float,
    profile: MemoryProfile = MemoryProfile.AUTO,
    *,
    rows: Workload = FULL,
    batch: int = 8,
    micro: int | None = None,
    pinned_gib: float = 0,
) -> MemoryPlan:
    memory = Memory(round(gib * GIB), round(pinned_gib * GIB))
    return memory_plan.plan(profile, rows, memory, ROUND, batch_size=batch, micro_batch_size=micro)


AUTO = [
    # A pass costs 512 tokens, a layer that computes again 0.97 %: eight rows may compute three layers again before four
    # rows that keep all are better. 8 x 2,048 tokens with all 32 layers are 49 GiB, with 29 layers 44.875 GiB.
    pytest.param(49, 8, Split(32, 32), id="all layers of the whole batch keep where they fit"),
    pytest.param(44.875, 8, Split(32, 29), id="three layers that compute again are cheaper than another pass"),
    pytest.param(44.8, 4, Split(32, 32), id="another pass is cheaper than four layers"),
    pytest.param(24.0, 4, Split(32, 31), id="one layer of four rows computes again"),
    pytest.param(6.0, 1, Split(32, 31), id="a single row with one layer that computes again"),
    pytest.param(1.0, 1, Split(32, 2), id="a small card keeps two layers of a row"),
]


@pytest.mark.parametrize(("gib", "micro", "split"), AUTO)
def test_auto_takes_the_micro_batch_that_is_fastest_in_that_memory(gib: float, micro: int, split: Split) -> None:
    chosen = planned(gib)
    assert chosen.micro_batch == micro
    assert chosen.split(micro * 2048) == split


def test_fast_takes_the_largest_micro_batch_that_computes_nothing_again() -> None:
    assert (planned(24.4, MemoryProfile.FAST).micro_batch, planned(24.5, MemoryProfile.FAST).micro_batch) == (2, 4)


def test_fast_keeps_what_it_can_when_not_even_one_row_keeps_all() -> None:
    chosen = planned(3, MemoryProfile.FAST)
    assert chosen.micro_batch == 1
    assert 0 < chosen.split(2048).kept < 32


def test_lean_computes_every_layer_again_from_inputs_on_the_host_but_the_last_two() -> None:
    chosen = planned(60, MemoryProfile.LEAN, pinned_gib=8)
    assert chosen.micro_batch == 2
    assert chosen.split(4096) == Split(32, 1, offloaded=30)


def test_lean_leaves_inputs_on_the_gpu_that_pinned_memory_does_not_hold() -> None:
    chosen = planned(60, MemoryProfile.LEAN, pinned_gib=0.3125)  # ten inputs of 2 x 2,048 tokens
    assert chosen.split(4096) == Split(32, 1, offloaded=10)


def test_inputs_go_to_the_host_only_when_computing_all_again_does_not_fit() -> None:
    long = memory_plan.workload([131072], packed=True)
    # 31 inputs are 31 GiB, a layer that keeps and its gradients 20 GiB; two offloaded inputs are on their way
    assert planned(51, rows=long, pinned_gib=64).split(131072) == Split(32, 1)
    assert planned(50, rows=long, pinned_gib=64).split(131072) == Split(32, 1, offloaded=3)
    assert not planned(50, rows=long, pinned_gib=0).fits()


def test_the_micro_batch_of_the_recipe_stays() -> None:
    chosen = planned(6, micro=4)
    assert (chosen.micro_batch, chosen.rows) == (4, 4)
    assert chosen.split(4 * 2048).kept < 32


def test_short_batches_keep_more_than_the_longest_one() -> None:
    ragged = memory_plan.workload([2048] * 8 + [256] * 56, packed=True)
    chosen = planned(24, rows=ragged, micro=8)
    assert chosen.split(16384).kept < chosen.split(8 * 256).kept == 32


def test_the_largest_packed_micro_batch_holds_the_longest_rows_and_a_padded_one_the_longest_row_many_times() -> None:
    lengths = [100, 300, 200]
    assert memory_plan.workload(lengths, packed=True).most_tokens(2) == 500
    assert memory_plan.workload(lengths, packed=False).most_tokens(2) == 600


def test_a_layer_that_keeps_needs_no_replay_beside_the_saved_inputs() -> None:
    """Keeping the last layer costs no more than replaying it."""
    assert ROUND.needed(1000, Split(32, 1)) == ROUND.needed(1000, Split(32, 0)) - 1000 * 8 * KIB


def test_an_offloaded_layer_leaves_two_inputs_on_the_gpu() -> None:
    assert ROUND.needed(1024, Split(32, 0)) - ROUND.needed(1024, Split(32, 0, offloaded=10)) == 8 * 8 * MIB
    assert ROUND.pinned(1024, Split(32, 0, offloaded=10)) == 80 * MIB


def test_the_first_step_corrects_what_was_reckoned() -> None:
    measured = Measured(tokens=4096, kept_bytes=120 * KIB, input_bytes=None, extra_bytes=512 * MIB)
    corrected = memory_plan.with_measured(planned(24), measured, Memory(24 * GIB)).footprint
    assert corrected == replace(ROUND, kept_bytes=120 * KIB, working_bytes=128 * KIB)


def test_a_measured_pass_of_replays_counts_the_replayed_layer_once() -> None:
    measured = Measured(tokens=1024, kept_bytes=None, input_bytes=8 * KIB, extra_bytes=160 * MIB)
    assert ROUND.corrected(measured) == ROUND


def test_after_running_out_of_memory_layers_give_first_then_rows_then_the_host() -> None:
    steps = []
    chosen: MemoryPlan | None = planned(7, pinned_gib=4, micro=None, batch=2)
    while chosen is not None:
        tokens = chosen.workload.most_tokens(chosen.rows)
        split = chosen.split(tokens)
        steps.append((chosen.rows, split.kept, split.offloaded))
        chosen = memory_plan.retreat(chosen, tokens)
    kept = [step[1] for step in steps]
    assert [step[0] for step in steps] == sorted((step[0] for step in steps), reverse=True)
    assert steps[0][1] > 0
    assert steps[-1] == (1, 1, 30)
    first_host = next(number for number, step in enumerate(steps) if step[2])
    assert kept[first_host - 1] == 1
    assert steps[first_host - 1][0] == 1


def test_a_given_micro_batch_is_never_split() -> None:
    chosen: MemoryPlan | None = planned(7, pinned_gib=4, micro=2, batch=2)
    while chosen is not None:
        assert chosen.rows == 2
        chosen = memory_plan.retreat(chosen, 4096)


def test_the_sentence_tells_layers_memory_and_micro_batch() -> None:
    assert memory_plan.explanation(planned(24.0)) == (
        "31 of 32 layers keep their activations, 1 computes them again: 23.8 of 24.0 GiB; "
        "micro-batch 4 x 2,048 tokens, 2 passes a step"
    )


def test_the_other_micro_batches_are_told_with_their_price() -> None:
    assert memory_plan.alternatives(planned(24.0)) == (
        "micro-batch 1: 32 of 32 layers keep, 6.1 GiB, 17 % slower",
        "micro-batch 2: 32 of 32 layers keep, 12.2 GiB, 5 % slower",
        "micro-batch 8: 13 of 32 layers keep, 22.9 GiB, 13 % slower",
    )


def test_policies_begin_at_the_host_and_end_with_those_that_keep() -> None:
    assert Split(4, kept=1, offloaded=2).policies() == (
        LayerPolicy.OFFLOAD,
        LayerPolicy.OFFLOAD,
        LayerPolicy.RECOMPUTE,
        LayerPolicy.KEEP,
    )


def test_an_8b_llama_keeps_about_three_mib_a_token() -> None:
    """facts: 2.88 MiB a token for all that no recompute needs, 0.25 MiB for the inputs alone."""
    llama = LayerShape(hidden=4096, intermediate=14336, q_heads=32, kv_heads=8, head_dim=128)
    reckoned = footprint.of_shape(llama, 32)
    assert 2.8 * MIB < 32 * reckoned.kept_bytes < 3.0 * MIB
    assert 32 * reckoned.input_bytes == 0.25 * MIB


footprints = st.builds(
    Footprint,
    layers=st.integers(1, 80),
    kept_bytes=st.integers(20_000, 200_000),
    input_bytes=st.integers(1_000, 19_000),
    working_bytes=st.integers(0, 200_000),
    loss_bytes=st.integers(0, GIB),
    constant_bytes=st.integers(0, GIB),
)
workloads = st.builds(
    memory_plan.workload, st.lists(st.integers(16, 8192), min_size=1, max_size=40), packed=st.booleans()
)
loads = st.tuples(workloads, st.integers(1, 64))
profiles = st.sampled_from(list(MemoryProfile))


@settings(max_examples=200, deadline=None)
@given(profiles, loads, footprints, st.integers(0, 80 * GIB), st.integers(0, 40 * GIB))
def test_more_memory_never_gives_a_slower_plan(
    profile: MemoryProfile, load: tuple[Workload, int], bytes_of: Footprint, gpu: int, more: int
) -> None:
    rows, batch = load
    small = memory_plan.plan(profile, rows, Memory(gpu, 64 * GIB), bytes_of, batch_size=batch)
    large = memory_plan.plan(profile, rows, Memory(gpu + more, 64 * GIB), bytes_of, batch_size=batch)
    if small.fits():
        assert large.fits()
        assert large.cost <= small.cost


@settings(max_examples=200, deadline=None)
@given(profiles, loads, footprints, st.integers(0, 80 * GIB), st.integers(0, 64 * GIB))
def test_a_plan_fits_and_uses_no_more_pinned_memory_than_there_is_or_nothing_fits(
    profile: MemoryProfile, load: tuple[Workload, int], bytes_of: Footprint, gpu: int, pinned: int
) -> None:
    rows, batch = load
    chosen = memory_plan.plan(profile, rows, Memory(gpu, pinned), bytes_of, batch_size=batch)
    assert batch % chosen.micro_batch == 0
    tokens = rows.most_tokens(chosen.rows)
    split = chosen.split(tokens)
    assert split.kept + split.recomputed + split.offloaded == bytes_of.layers == len(split.policies())
    assert bytes_of.pinned(tokens, split) <= pinned + 1
    least = min(bytes_of.needed(rows.most_tokens(1), Split(bytes_of.layers, kept)) for kept in (0, 1))
    if least <= gpu and profile is not MemoryProfile.LEAN:
        assert chosen.fits()
    if chosen.fits():
        assert bytes_of.needed(tokens, split) <= gpu


@settings(max_examples=200, deadline=None)
@given(profiles, loads, footprints, st.integers(0, 80 * GIB), st.booleans())
def test_every_retreat_takes_less_and_there_is_an_end(
    profile: MemoryProfile, load: tuple[Workload, int], bytes_of: Footprint, gpu: int, is_given: bool
) -> None:
    rows, batch = load
    now = memory_plan.plan(
        profile,
        rows,
        Memory(gpu, 64 * GIB),
        bytes_of,
        batch_size=batch,
        micro_batch_size=batch if is_given else None,
    )
    for _ in range(200):
        tokens = rows.most_tokens(now.rows)
        after = memory_plan.retreat(now, tokens)
        if after is None:
            return
        fewer_rows = after.rows < now.rows
        assert fewer_rows or bytes_of.needed(tokens, after.split(tokens)) < bytes_of.needed(tokens, now.split(tokens))
        now = after
    pytest.fail("a plan that runs out of memory for ever")


@settings(max_examples=100, deadline=None)
@given(workloads, footprints, st.integers(0, 80 * GIB), st.integers(1, 8192), st.integers(1, 8192))
def test_a_shorter_pass_never_keeps_less(
    rows: Workload, bytes_of: Footprint, gpu: int, first: int, second: int
) -> None:
    chosen = memory_plan.plan(MemoryProfile.AUTO, rows, Memory(gpu, 64 * GIB), bytes_of, batch_size=8)
    short, long = sorted((first, second))
    if bytes_of.needed(long, chosen.split(long)) <= gpu:
        assert chosen.split(short).kept >= chosen.split(long).kept

"""The engine against the PEFT path in float32: losses, logits and every gradient of the adapter.

Both compute the same sums in another order, so they differ by rounding alone: 2^-24 a step, and a few thousand steps
a number. 2e-5 of the largest value of a tensor is ten times what was seen, and a hundredth of what one rounding to
bfloat16 would give.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from loraline_trainer.engine import batches, build, layout, policy, switches
from loraline_trainer.engine.engine import Engine
from loraline_trainer.engine.policy import LayerPolicy

from . import engine_models as models

TOLERANCE = 2e-5
LENGTHS = [9, 17, 1, 12]
CPU = torch.device("cpu")


def engine_of(model: Any, *, in_fp8: bool = False) -> Engine:
    """The engine of a model that it knows."""
    found = build.engine_for(model, in_fp8=in_fp8)
    assert isinstance(found, Engine), found
    return found


def documents_loss(engine: Engine, ids: list[list[int]], labels: list[list[int]]) -> torch.Tensor:
    """The summed loss of documents end to end."""
    flat = torch.tensor([token for document in ids for token in document])
    predict_at, targets = batches.counted([label for document in labels for label in document])
    where = layout.of_lengths([len(document) for document in ids], CPU)
    return engine.loss(flat, where, torch.tensor(predict_at), torch.tensor(targets))


def peft_run(model: Any, ids: list[list[int]], labels: list[list[int]]) -> torch.Tensor:
    """The summed loss of each document alone."""
    total = torch.zeros(())
    for tokens, wanted in zip(ids, labels, strict=True):
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
        total = total + torch.nn.functional.cross_entropy(
            logits[:-1], torch.tensor(wanted[1:], dtype=torch.long), ignore_index=-100, reduction="sum"
        )
    return total


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of every parameter of the adapter."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.requires_grad}


def assert_close(found: torch.Tensor, wanted: torch.Tensor, what: str) -> None:
    """Equal but for rounding."""
    error = (found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12)
    assert error < TOLERANCE, f"{what}: {error:.2e}"


def assert_same(model: Any, engine: Engine, lengths: list[int] = LENGTHS) -> None:
    """Loss and gradients are those of the PEFT path."""
    ids, labels = models.documents(lengths)
    wanted_loss = peft_run(model, ids, labels)
    wanted = gradients(model, wanted_loss)
    loss = documents_loss(engine, ids, labels)
    found = gradients(model, loss / 3)
    assert_close(loss.detach(), wanted_loss.detach(), "loss")
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert value.abs().max() > 0, f"{name} has no gradient to compare"
        assert_close(found[name] * 3, value, name)


@pytest.mark.parametrize("nf4_weights", [False, True], ids=["unquantized", "nf4"])
@pytest.mark.parametrize("name", models.CONFIGS)
def test_loss_and_every_gradient_equal_peft(name: str, nf4_weights: bool) -> None:
    model = models.with_adapter(models.base(name, nf4_weights=nf4_weights))
    assert_same(model, engine_of(model))


@pytest.mark.parametrize("name", ["llama 3", "gemma 3"])
@pytest.mark.parametrize("kept", LayerPolicy)
def test_what_a_layer_keeps_changes_nothing(name: str, kept: LayerPolicy) -> None:
    model = models.with_adapter(models.base(name))
    engine = engine_of(model)
    engine.set_policies([kept, LayerPolicy.KEEP, kept])
    assert_same(model, engine)


@pytest.mark.parametrize("off", ["fold", "wide_gradient", "skip_down"])
def test_each_optimisation_left_out_changes_nothing(off: str) -> None:
    model = models.with_adapter(models.base("qwen 2.5"))
    engine = engine_of(model)
    engine.set_policies([LayerPolicy.RECOMPUTE] * 3)
    with switches.switched(**{off: False}):
        assert_same(model, engine)


def test_an_unknown_switch_is_named() -> None:
    with pytest.raises(ValueError, match="LORALINE_ENGINE_OFF names folds; the switches are fold, wide_gradient"):
        switches.from_environment("kernels,folds")


@pytest.mark.parametrize("tile", [1, 5, 1000])
def test_the_tile_of_the_loss_changes_nothing(tile: int) -> None:
    model = models.with_adapter(models.base("gemma 2"))
    engine = engine_of(model)
    engine.set_loss_bytes(tile * models.VOCABULARY * 4)
    assert_same(model, engine)


@pytest.mark.parametrize("name", models.CONFIGS)
def test_logits_equal_peft(name: str) -> None:
    model = models.with_adapter(models.base(name)).eval()
    ids, _ = models.documents([13])
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor(ids), use_cache=False).logits[0]
        engine = engine_of(model)
        hidden = engine.hidden(torch.tensor(ids[0]), layout.of_lengths([13], CPU))
        logits = model.get_base_model().lm_head(hidden)
        cap = getattr(model.get_base_model().config, "final_logit_softcapping", None)
        if cap is not None:
            logits = torch.tanh(logits / cap) * cap
    assert_close(logits, wanted, "logits")


def test_documents_do_not_see_each_other() -> None:
    model = models.with_adapter(models.base("llama 3"))
    engine = engine_of(model)
    ids, labels = models.documents([9, 11])
    with torch.no_grad():
        together = documents_loss(engine, ids, labels)
        alone = documents_loss(engine, ids[:1], labels[:1]) + documents_loss(engine, ids[1:], labels[1:])
        other = [[5] * 9, ids[1]]
        changed = documents_loss(engine, other, [[-100] * 9, labels[1]])
    assert_close(together, alone, "loss")
    assert_close(changed, documents_loss(engine, ids[1:], labels[1:]).detach(), "loss of the second document")


PARTIAL = [["q_proj", "v_proj"], ["o_proj"], ["gate_proj", "down_proj"], ["up_proj", "k_proj"]]


@pytest.mark.parametrize("targets", PARTIAL, ids=" ".join)
def test_an_adapter_on_some_layers_equals_peft(targets: list[str]) -> None:
    model = models.with_adapter(models.base("llama 3", nf4_weights=True), target_modules=targets)
    assert_same(model, engine_of(model))


def test_ranks_and_scales_of_their_own_equal_peft() -> None:
    model = models.with_adapter(
        models.base("qwen 2.5"),
        rank_pattern={"q_proj": 9, "up_proj": 3},
        alpha_pattern={"down_proj": 40},
        use_rslora=True,
    )
    assert_same(model, engine_of(model))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lora_dropout": 0.1}, "adapter.dropout is not 0"),
        ({"use_dora": True}, "the adapter is a variant of LoRA, such as DoRA"),
        ({"modules_to_save": ["lm_head"]}, "trains, and it does not know it"),
    ],
    ids=["dropout", "dora", "a trained head"],
)
def test_what_it_cannot_do_it_says(changes: dict[str, Any], reason: str) -> None:
    model = models.with_adapter(models.base("llama 3"), **changes)
    found = build.engine_for(model)
    assert isinstance(found, str)
    assert found.endswith(reason)


def test_policies_must_be_as_many_as_layers() -> None:
    engine = engine_of(models.with_adapter(models.base("llama 3")))
    with pytest.raises(ValueError, match="2 policies for 3 layers; give one for each"):
        engine.set_policies([LayerPolicy.KEEP] * 2)


def test_bytes_a_token_are_what_the_layer_keeps() -> None:
    engine = engine_of(models.with_adapter(models.base("llama 3")))
    shape = engine.shape
    assert policy.bytes_per_token(shape, LayerPolicy.RECOMPUTE) == 64 * 4
    assert engine.bytes_per_token(LayerPolicy.OFFLOAD) == 0
    kept = engine.bytes_per_token(LayerPolicy.KEEP)
    # x, qkv, attention, middle, gate and up; the adapters' columns; log-sum-exp and two scales
    assert kept == 4 * (64 + 128 + 64 + 64 + 384) + 4 * 64 * 6 + 4 * (4 + 2)

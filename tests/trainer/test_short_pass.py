"""The short pass of CPUs against each document alone in the model's own forward pass: the loss and its gradients.

In float32 both compute the same sums in another order: 1e-5 is ten times what was seen.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from loraline_trainer.model import lora
from loraline_trainer.model.loading import Loaded
from loraline_trainer.training import batches, short_pass

from . import engine_models as models

LENGTHS = [9, 17, 2, 12]


class Shapes(TorchDispatchMode):
    """Notes the shapes of all tensors that an operator gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator."""
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, torch.Tensor):
                self.seen.add(tuple(one.shape))
        return out


def loaded(model: Any, device: str = "cpu") -> Loaded:
    """The model as the loader gives it."""
    return Loaded(model, None, torch.device(device), torch.float32, 0)


def items() -> list[dict[str, list[int]]]:
    """Documents as a batch takes them."""
    return [{"input_ids": ids, "labels": labels} for ids, labels in zip(*models.documents(LENGTHS), strict=True)]


def alone(model: Any) -> torch.Tensor:
    """The loss of each document alone, from all its logits, summed."""
    total = torch.zeros(())
    for item in items():
        logits = model(input_ids=torch.tensor([item["input_ids"]]), use_cache=False).logits[0, :-1].float()
        wanted = torch.tensor(item["labels"][1:])
        total = total + torch.nn.functional.cross_entropy(logits, wanted, ignore_index=-100, reduction="sum")
    return total


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradients of the adapter."""
    trained = lora.trained_parameters(model)
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


def with_sdpa(name: str) -> Any:
    """A random model with an adapter and the attention that the loader chooses."""
    model = models.with_adapter(models.base(name))
    model.get_base_model().config._attn_implementation = "eager" if name == "gemma 2" else "sdpa"  # it has a soft cap
    return model


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("name", models.CONFIGS)
def test_loss_and_gradients_are_those_of_each_document_alone(name: str, packing: bool) -> None:
    model = with_sdpa(name)
    own = alone(model)
    wanted = gradients(model, own)
    short = short_pass.of(model, loaded(model))
    assert short is not None
    taken = short.take(batches.collator(packing=packing, pad_id=0)(items()))
    assert float(taken.loss.detach()) == pytest.approx(float(own.detach()), rel=1e-5)
    assert taken.tokens == sum(LENGTHS)
    for key, gradient in gradients(model, taken.loss).items():
        assert float((gradient - wanted[key]).norm() / wanted[key].norm()) < 1e-5, key


def test_no_token_is_multiplied_with_those_of_another_document_nor_a_logit_taken_that_does_not_count() -> None:
    model = with_sdpa("smollm")
    batch = batches.packed(items())
    short = short_pass.of(model, loaded(model))
    assert short is not None
    with Shapes() as shapes:
        short.take(batch)
    tokens, counted = sum(LENGTHS), int((batch["labels"] != -100).sum())
    assert (counted, models.VOCABULARY) in shapes.seen
    assert (tokens, models.VOCABULARY) not in shapes.seen
    assert not [shape for shape in shapes.seen if shape[-2:] == (tokens, tokens)]
    assert model.get_base_model().config._attn_implementation == "sdpa"


def test_a_batch_in_which_nothing_counts_gives_zero_and_gradients_of_zero() -> None:
    model = with_sdpa("smollm")
    short = short_pass.of(model, loaded(model))
    assert short is not None
    taken = short.take(batches.collator(packing=True, pad_id=0)([]))
    assert float(taken.loss.detach()) == 0
    assert not any(gradient.any() for gradient in gradients(model, taken.loss).values())


def test_gpus_and_models_whose_logits_are_more_than_a_product_keep_the_long_one() -> None:
    """Granite divides them by a number of its config."""
    model = with_sdpa("smollm")
    assert short_pass.of(model, loaded(model, "cuda")) is None
    settings: dict[str, Any] = {**models.SHAPE, "logits_scaling": 8.0}
    granite = transformers.AutoModelForCausalLM.from_config(transformers.GraniteConfig(**settings))
    assert short_pass.of(granite, loaded(granite)) is None

"""The held-out loss from hidden states, tile by tile, against the whole logits of the model's own forward pass.

In float32 both compute the same sums in another order: 1e-6 of the loss is six times what was seen. In bfloat16 logits
are rounded alike, but for Gemma 2's cap, which is taken in float32 here: 1e-4 is six times what was seen.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from loraline_trainer.data.rendering import TokenRow
from loraline_trainer.engine import build
from loraline_trainer.evaluation import scoring
from loraline_trainer.model.loading import Loaded

from . import engine_models as models

LENGTHS = [9, 17, 2, 12]


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operator gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator."""
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, torch.Tensor):
                self.size_bytes = max(self.size_bytes, one.numel() * one.element_size())
        return out


def rows(lengths: list[int]) -> list[TokenRow]:
    """Rows of random tokens, of which a third does not count."""
    ids, labels = models.documents(lengths)
    pairs = zip(ids, labels, strict=True)
    return [TokenRow("line", tuple(one), tuple(wanted), 1, len(one), True) for one, wanted in pairs]


def loaded(model: Any, dtype: torch.dtype = torch.float32) -> Loaded:
    """The model as the loader gives it."""
    return Loaded(model, None, torch.device("cpu"), dtype, 0)


def by_whole_logits(model: Any, documents: list[TokenRow]) -> float:
    """The mean loss of each document alone, from all its logits."""
    model.eval()
    total, counted = 0.0, 0
    for row in documents:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0, :-1].float()
        wanted = torch.tensor(row.labels[1:])
        total += float(torch.nn.functional.cross_entropy(logits, wanted, ignore_index=-100, reduction="sum"))
        counted += int((wanted != -100).sum())
    return total / counted


@pytest.mark.parametrize("name", models.CONFIGS)
def test_it_equals_the_loss_of_the_models_own_logits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "TILE_BYTES", 7 * models.VOCABULARY * 4)  # 28 tokens in four tiles
    base = models.base(name)
    for model in (base, models.with_adapter(base, lora_dropout=0.5)):
        assert build.head_for(model) is not None
        wanted = by_whole_logits(model, rows(LENGTHS))
        model.train()
        assert scoring.loss(model, loaded(model), rows(LENGTHS)) == pytest.approx(wanted, rel=1e-6)
        assert model.training


@pytest.mark.parametrize("name", ["llama 3", "gemma 2"])
def test_in_bfloat16_it_equals_it_but_for_rounding(name: str) -> None:
    base = models.base(name).to(torch.bfloat16)
    wanted = by_whole_logits(base, rows(LENGTHS))
    assert scoring.loss(base, loaded(base, torch.bfloat16), rows(LENGTHS)) == pytest.approx(wanted, rel=1e-4)


def test_logits_that_are_more_than_a_product_come_from_the_model() -> None:
    """Granite divides them by a number of its config."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {**models.SHAPE, "logits_scaling": 8.0, "attn_implementation": "eager"}
    config = transformers.GraniteConfig(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert build.head_for(model) is None
    wanted = by_whole_logits(model, rows(LENGTHS))
    assert scoring.loss(model, loaded(model), rows(LENGTHS)) == pytest.approx(wanted, rel=1e-6)


def test_no_tensor_is_larger_than_a_tile_however_long_a_row_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside it the model's own forward pass, which keeps the logits of all counted tokens in float32."""
    vocabulary, tile_bytes = 16384, 8 * 2**20
    config = transformers.LlamaConfig(**{**models.SHAPE, "vocab_size": vocabulary, "max_position_embeddings": 2048})
    model = transformers.AutoModelForCausalLM.from_config(config)
    documents = rows([1200])
    monkeypatch.setattr(scoring, "TILE_BYTES", tile_bytes)
    with Largest() as tiles:
        scoring.loss(model, loaded(model), documents)
    monkeypatch.setattr(build, "head_for", lambda _: None)
    with Largest() as whole:
        scoring.loss(model, loaded(model), documents)
    counted = sum(label != -100 for label in documents[0].labels)
    assert tiles.size_bytes <= tile_bytes
    assert whole.size_bytes == counted * vocabulary * 4 > 5 * tile_bytes

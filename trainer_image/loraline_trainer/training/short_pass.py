"""The loss of a pass on CPUs without what it does not need: PEFT's path still, and TRL's loss but for rounding.

TRL takes the logits of every token, counted or not, and PyTorch's attention multiplies each token of a packed pass with
every other one behind a mask. Here logits exist for the counted tokens alone, and attention stays within documents.
GPUs have the engine; several processes keep TRL's pass, whose forward is what they share their gradients by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from loraline_trainer.data.rendering import IGNORED
from loraline_trainer.engine import attention, build, cross_entropy, layout
from loraline_trainer.engine.attention import Rules
from loraline_trainer.engine.cross_entropy import Head
from loraline_trainer.engine.layout import Layout
from loraline_trainer.model.loading import Loaded

WITHIN_DOCUMENTS = "loraline_within_documents"
"""Our attention's name among those of transformers."""

TILE_BYTES = 64 * 2**20
"""Most bytes of logits at a time; CPUs also make them float32, thrice."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a pass gave.

    Attributes:
        loss: summed over the counted tokens.
        tokens: tokens that went through, padding not counted.
    """

    loss: torch.Tensor
    tokens: int


@dataclass(frozen=True, slots=True)
class ShortPass:
    """The parts of a model that a pass needs.

    Attributes:
        is_plain: whether its attention may stay within documents: nothing is in it but products, a mask and a window.
    """

    decoder: Any
    head: Head
    config: Any
    is_plain: bool

    def take(self, inputs: Mapping[str, torch.Tensor]) -> Taken:
        """The loss of a packed or padded batch (see `batches`), with its graph."""
        labels = inputs["labels"]
        rows, places = (labels != IGNORED).nonzero(as_tuple=True)
        hidden = self._hidden({name: value for name, value in inputs.items() if name != "labels"})
        counted = hidden[rows, places - 1].to(self.head.weight.dtype)  # the token at p is predicted at p - 1
        loss = cross_entropy.summed(counted, labels[rows, places], self.head, TILE_BYTES)
        mask = inputs.get("attention_mask")
        return Taken(loss, labels.numel() if mask is None else int(mask.sum()))

    def _hidden(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The hidden states behind the last norm. [rows, tokens, width]"""
        if "attention_mask" in inputs or not self.is_plain:
            return self.decoder(**inputs, use_cache=False).last_hidden_state  # type: ignore[no-any-return]
        begins = (inputs["position_ids"][0] == 0).nonzero()[:, 0].tolist()
        ends = [*begins[1:], inputs["position_ids"].shape[1]]
        documents = layout.of_lengths(
            [end - begin for begin, end in zip(begins, ends, strict=True)], torch.device("cpu")
        )
        with _attention_within_documents(self.config):
            return self.decoder(**inputs, documents=documents, use_cache=False).last_hidden_state  # type: ignore[no-any-return]


def of(model: Any, loaded: Loaded) -> ShortPass | None:
    """The short pass of a model with its adapter; None on GPUs, and where the output layer is not known."""
    if loaded.device.type != "cpu":
        return None
    head = build.head_for(model)
    if head is None:
        return None
    causal = build.causal_of(model)
    config = causal.config.get_text_config()
    is_plain = (
        config._attn_implementation == "sdpa"
        and not getattr(config, "attention_dropout", 0.0)
        and getattr(config, "attn_logit_softcapping", None) is None
    )
    return ShortPass(build.decoder_of(causal), head, config, is_plain)


@contextmanager
def _attention_within_documents(config: Any) -> Iterator[None]:
    """Has the model's layers call `_attend`; transformers makes no mask for an attention that it does not know."""
    before = config._attn_implementation
    config._attn_implementation = WITHIN_DOCUMENTS
    try:
        yield
    finally:
        config._attn_implementation = before


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    scaling: float,
    documents: Layout,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The attention of one packed row, [1, heads, tokens, D] to [1, tokens, heads, D], as a layer calls it."""
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return attention.by_torch(q, k, v, documents, Rules(scaling, sliding_window))[None], None


transformers.AttentionInterface.register(WITHIN_DOCUMENTS, _attend)

"""The frozen embeddings, on the GPU or, to save a GiB of it, in pinned host memory that the GPU reads by itself.

A micro-batch of 4,096 tokens reads 32 MiB of them. Tied embeddings are the output layer too and stay on the GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Embedding:
    """The model's own embedding module, and where its weight lies."""

    def __init__(self, module: torch.nn.Module, *, tied: bool) -> None:
        self._module = module
        self._tied = tied

    @property
    def can_leave(self) -> bool:
        """Whether the weight may lie in host memory: a plain table that nothing else uses, on a GPU."""
        return type(self._module) is torch.nn.Embedding and not self._tied and self._module.weight.is_cuda

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """The embeddings of tokens [T]. [T, H]"""
        weight = self._module.weight
        if ids.device == weight.device:
            # As one row: hooks, such as NEFTune's noise, expect [batch, tokens, H].
            found: torch.Tensor = self._module(ids[None])[0]
            return found
        if self._module._forward_hooks:
            hooked: torch.Tensor = self._module(ids.cpu()[None])[0]
            return hooked.to(ids.device)
        from loraline_trainer.engine.kernels import embedding as kernels

        return kernels.gathered(weight, ids)  # type: ignore[arg-type]

    @contextmanager
    def on_host(self) -> Iterator[None]:
        """Keeps the weight in pinned host memory for a while; does nothing where it cannot leave the GPU."""
        if not self.can_leave:
            yield
            return
        weight: torch.nn.Parameter = self._module.weight  # type: ignore[assignment]
        device = weight.device
        weight.data = weight.data.to("cpu").pin_memory()
        try:
            yield
        finally:
            weight.data = weight.data.to(device)

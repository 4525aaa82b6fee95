"""Reads what an adapter is judged against from the folder of the base model: identity, shapes and layers.

It reads headers and config.json only, never the weights themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loraline_api import artifact
from loraline_api.preflight import BaseModelCard
from loraline_switchboard import tensors


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model: `shapes` are those of its weights, [out, in], by module name without `.weight`."""

    digest: str
    shapes: Mapping[str, tuple[int, ...]]
    modules: frozenset[str]
    layers: int | None

    def card(self) -> BaseModelCard:
        """Its description, for checks elsewhere."""
        shapes = {module: list(self.shapes[module]) for module in sorted(self.shapes)}
        others = sorted(self.modules - self.shapes.keys())
        return BaseModelCard(digest=self.digest, layers=self.layers, shapes=shapes, modules=others)


def from_card(card: BaseModelCard) -> BaseModel:
    """The base model that another pod has described."""
    shapes = {module: tuple(shape) for module, shape in card.shapes.items()}
    return BaseModel(card.digest, shapes, frozenset((*shapes, *card.modules)), card.layers)


def read(folder: Path) -> BaseModel:
    """The base model in a folder.

    Raises:
        FileNotFoundError: config.json or the *.safetensors files are not there.
        ValueError: one of them cannot be read.
    """
    digest = artifact.base_model_digest(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text_config = config.get("text_config") or config
    shapes: dict[str, tuple[int, ...]] = {}
    modules: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in tensors.read_header(path).items():
            module, _, leaf = name.rpartition(".")
            modules.add(module)
            if leaf == "weight" and tensor.dtype in tensors.EXPONENTS:
                shapes[module] = tensor.shape
    embedding = next((name for name in shapes if name.endswith("embed_tokens")), None)
    if embedding is not None and "lm_head" not in shapes and text_config.get("tie_word_embeddings", True):
        shapes["lm_head"] = shapes[embedding]  # tied: the file holds the matrix once
        modules.add("lm_head")
    layers = text_config.get("num_hidden_layers")
    return BaseModel(digest, shapes, frozenset(modules), layers if isinstance(layers, int) else None)

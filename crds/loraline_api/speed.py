"""How long a fine-tune takes on a card: floating point operations of a token over the rate that the card reaches.

An estimate that is right within a factor of two; the efficiency of each card in the policy's catalogue sets it.
"""

from __future__ import annotations

from loraline_api.memory import Activations, Recipe
from loraline_api.model_shape import ModelShape

TERA = 1e12


def operations_per_token(shape: ModelShape, recipe: Recipe, activations: Activations, length: int) -> float:
    """Floating point operations that one trained token costs.

    A product of n weights is 2 n forward and 2 n for the gradient of its input; the frozen weights have no gradient of
    their own. What is not kept is computed once more.

    Args:
        length: tokens of a sequence; attention looks at half of them on average.
    """
    adapter = shape.adapter_parameters(recipe.adapter.rank, recipe.adapter.target_modules)
    again = 0 if activations is Activations.KEPT else 1
    linear = (4 + 2 * again) * shape.linear_parameters
    head = 4 * shape.vocab_size * shape.hidden_size
    lora = (6 + 2 * again) * adapter
    attention_forward = 2 * length * shape.query_size * shape.num_hidden_layers
    attention = (3.5 + again) * attention_forward  # backward is 2.5 times forward (FlashAttention-2, arXiv 2307.08691)
    return linear + head + lora + attention


def tokens_per_second(operations: float, bf16_tflops: float, efficiency: float, gpus: int = 1) -> float:
    """Tokens that so many cards train in a second."""
    return gpus * bf16_tflops * TERA * efficiency / operations

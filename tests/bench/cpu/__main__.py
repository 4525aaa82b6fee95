"""`python -m bench.cpu`: what 4-bit weights cost on this machine's CPUs, by bitsandbytes and by our layer.

Three things, each the least of many runs in turn, for other work disturbs them: the dequantization of a weight, its
product with 768 tokens forward and backward, and a training step of a random model in SmolLM2-135M's shape. Every
dequantization is first compared bit for bit.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import peft
import torch
import transformers
from bitsandbytes import functional
from bitsandbytes.autograd._functions import matmul_4bit
from bitsandbytes.nn.modules import Linear4bit, Params4bit

from loraline_trainer.engine import nf4 as reference
from loraline_trainer.model import nf4

SHAPES = {
    "SmolLM2-135M": ((192, 576), (576, 576), (1536, 576), (576, 1536)),
    "8B": ((1024, 4096), (4096, 4096), (14336, 4096)),
}
SMOLLM2: dict[str, Any] = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
TOKENS, ROWS = 768, 8
MEASURED_S, STEPS_S = 0.3, 20.0
"""Time for each number and for those of steps, and three runs at least."""

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
Way = Callable[["Weight"], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Weight:
    """A quantized weight."""

    packed: torch.Tensor
    state: functional.QuantState
    blocks: nf4.Blocks

    @classmethod
    def random(cls, shape: tuple[int, int], dtype: torch.dtype) -> Weight:
        """Gaussian weights with double quantization."""
        whole = torch.randn(shape, dtype=dtype)
        packed, state = functional.quantize_4bit(whole, quant_type="nf4", compress_statistics=True)
        return cls(packed, state, nf4.Blocks.of(packed, state))


WAYS: dict[str, Way] = {
    "bitsandbytes": lambda weight: functional.dequantize_4bit(weight.packed, weight.state),
    "torch": lambda weight: reference.dequantized(reference.of_state(weight.packed, weight.state)),
    "ours": lambda weight: weight.blocks.dequantized(weight.state.dtype),
}


def least(ways: dict[str, Callable[[], object]], seconds: float = MEASURED_S) -> dict[str, float]:
    """The least time of each in milliseconds; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        run()
    end = time.perf_counter() + seconds * len(ways)
    while time.perf_counter() < end or min(map(len, times.values())) < 3:
        for name, run in ways.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
    return {name: 1000 * min(found) for name, found in times.items()}


def dequantization(dtype: torch.dtype) -> None:
    """A row for each shape.

    Raises:
        AssertionError: a way gives another weight than the reference.
    """
    for model, shape in shapes():
        weight = Weight.random(shape, dtype)
        wanted = WAYS["torch"](weight)
        assert all(torch.equal(way(weight), wanted) for way in WAYS.values())
        found = least({name: functools.partial(way, weight) for name, way in WAYS.items()})
        say(f"dequantization, {model}", shape, dtype, found)


def product(dtype: torch.dtype) -> None:
    """Forward, and forward with backward, for each shape; a product with a ready weight beside them."""
    for model, shape in shapes():
        weight = Weight.random(shape, dtype)
        x = torch.randn(TOKENS, shape[1], dtype=dtype, requires_grad=True)
        grad = torch.randn(TOKENS, shape[0], dtype=dtype)
        ways = products(weight, x)
        say(f"forward, {model}", shape, dtype, least(dict(ways)))
        both = {name: functools.partial(backward, way, grad) for name, way in ways.items()}
        say(f"forward and backward, {model}", shape, dtype, least(dict(both)))


def products(weight: Weight, x: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    """The product of a weight with tokens."""
    ready = weight.blocks.dequantized(x.dtype).clone()
    return {
        "bitsandbytes": lambda: matmul_4bit(x, weight.packed.t(), weight.state),
        "ours": lambda: nf4.FrozenProduct.apply(x, weight.blocks),  # type: ignore[no-untyped-call]
        "ready weight": lambda: torch.nn.functional.linear(x, ready),
    }


def backward(way: Callable[[], torch.Tensor], grad: torch.Tensor) -> None:
    """A product and its gradient."""
    way().backward(grad)


def step(dtype: torch.dtype) -> None:
    """A forward and backward pass of a model with an adapter, and an optimizer step."""
    ids = torch.randint(0, SMOLLM2["vocab_size"], (ROWS, TOKENS // ROWS))
    ways: dict[str, Callable[[], object]] = {}
    for name in ("bitsandbytes", "ours"):
        model = adapted(dtype, ours=name == "ours")
        optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-4)
        ways[name] = functools.partial(train, model, optimizer, ids, dtype)
    say("training step, SmolLM2-135M", (ROWS, TOKENS // ROWS), dtype, least(ways, STEPS_S))


def shapes() -> Iterator[tuple[str, tuple[int, int]]]:
    """Each shape with its model."""
    return ((model, shape) for model, found in SHAPES.items() for shape in found)


def train(model: Any, optimizer: torch.optim.Optimizer, ids: torch.Tensor, dtype: torch.dtype) -> None:
    """One step."""
    with nullcontext() if dtype is torch.float32 else torch.autocast("cpu", dtype):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def adapted(dtype: torch.dtype, *, ours: bool) -> Any:
    """A random model whose linear layers are quantized, with an adapter."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SMOLLM2, num_hidden_layers=30)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear and child is not model.get_output_embeddings():
                layer = Linear4bit(
                    child.in_features, child.out_features, bias=False, compute_dtype=dtype, quant_type="nf4"
                )
                layer.weight = Params4bit(child.weight.data, requires_grad=False, quant_type="nf4")
                setattr(parent, name, layer.to("cpu"))
    if ours:
        nf4.keep_unpacked(model)
    model.requires_grad_(False)
    settings = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return peft.get_peft_model(model, settings).train()


def say(what: str, shape: tuple[int, int], dtype: torch.dtype, found: dict[str, float]) -> None:
    """Prints a line."""
    numbers = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    sys.stdout.write(f"{what} {shape[0]} x {shape[1]}, {str(dtype)[6:]}: {numbers} ms\n")
    sys.stdout.flush()


PARTS = {"dequantization": dequantization, "product": product, "step": step}


def main() -> int:
    """Measures."""
    parser = argparse.ArgumentParser(prog="bench.cpu", description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="with commas between")
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="with commas between")
    options = parser.parse_args()
    torch.manual_seed(0)
    say_machine = (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    )
    sys.stdout.write(say_machine + "\n")
    for part in options.parts.split(","):
        for dtype in options.dtypes.split(","):
            PARTS[part](DTYPES[dtype])
    return 0


if __name__ == "__main__":
    sys.exit(main())

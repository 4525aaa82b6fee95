"""The engine's gradients on the 8B shape, four layers of it: no further from float32 than PEFT's own bfloat16 path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench.gpu import kernel_checks, random_model
from bench.gpu.report import DEVICE, engine_of, say, tokens_of, tried
from loraline_trainer.engine import layout, switches
from loraline_trainer.engine.engine import Engine
from loraline_trainer.engine.policy import LayerPolicy

VOCABULARY = 32000
LAYERS = 4
LENGTHS = [512] * 4

Found = tuple[float, dict[str, torch.Tensor]]
"""Loss, and the gradient of each parameter of the adapter."""


def gradients() -> None:
    """Errors of engine and PEFT in bfloat16 against PEFT in float32, relative, a mean over all parameters."""
    torch.backends.cuda.matmul.allow_tf32 = False
    model = random_model.adapted(random_model.llama(LAYERS, vocabulary=VOCABULARY))
    weights = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    inputs = tokens_of(LENGTHS, VOCABULARY)
    rows = inputs[0].view(len(LENGTHS), LENGTHS[0])
    results = _of_all_paths(model, inputs, rows)
    plain = model.unload()
    random_model.unquantized(plain)
    exact_model = random_model.adapted(plain)
    with torch.no_grad():
        for name, value in exact_model.named_parameters():
            if value.requires_grad:
                value.copy_(weights[name])
    exact_loss, exact = _of_peft(exact_model, rows, autocast=False)
    say(f"loss, float32 reference: {exact_loss:.6f}")
    for name, found in results.items():
        if found is None:
            continue
        errors = sorted(kernel_checks.error(found[1][key], value) for key, value in exact.items())
        mean = sum(errors) / len(errors)
        say(
            f"gradients {name:32s} loss off {found[0] - exact_loss:+.1e}; error mean {mean:.2e}, worst {errors[-1]:.2e}"
        )


def _of_all_paths(model: Any, inputs: Any, rows: torch.Tensor) -> dict[str, Found | None]:
    engine, in_fp8 = engine_of(model), engine_of(model, in_fp8=True)

    def of_engine(engine: Engine = engine) -> Found:
        ids, _, predict_at, targets = inputs
        loss = engine.loss(ids, layout.of_lengths(LENGTHS, DEVICE), predict_at, targets) / len(targets)
        return _gradients(model, loss)

    results: dict[str, Found | None] = {}

    def path(name: str, work: Callable[[], Found]) -> None:
        results[name] = tried(f"gradients {name}", work)

    path("peft bf16", lambda: _of_peft(model, rows, autocast=True))
    path("engine", of_engine)
    path("engine in fp8", lambda: of_engine(in_fp8))
    for policy in (LayerPolicy.RECOMPUTE, LayerPolicy.OFFLOAD):
        engine.set_policies([policy] * LAYERS)
        path(f"engine {policy.value}", of_engine)
    engine.set_policies([LayerPolicy.KEEP] * LAYERS)
    for off in ("cudnn_attention", "fold", "wide_gradient", "kernels", "nf4_kernel", "loss_kernel"):
        with switches.switched(**{off: False}):
            path(f"engine without {off}", of_engine)
    with engine.embeddings_on_host():
        path("engine, embeddings on the host", of_engine)
    return results


def _of_peft(model: Any, rows: torch.Tensor, *, autocast: bool) -> Found:
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        logits = model(input_ids=rows, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), rows[:, 1:].flatten())
    return _gradients(model, loss)


def _gradients(model: Any, loss: torch.Tensor) -> Found:
    model.zero_grad(set_to_none=True)
    loss.backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}
    return loss.item(), found

"""`loraline-train estimate`: what a manifest's fine-tune takes on every card, from the model's own config.json.

Loads no weights. The operator tells the same in `status.estimate` for models whose size it knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from loraline_api import model_shape, run
from loraline_api import policy as api_policy
from loraline_api.gpus import Gpu
from loraline_api.memory import GIB, Activations
from loraline_api.outcome import ExitCode
from loraline_api.policy import ALLOW_ALL, Policy
from loraline_api.sizing import Sizing
from loraline_trainer import errors, local
from loraline_trainer.places import Places
from loraline_trainer.storage import base_model

MILLION = 1_000_000
HOUR_S = 3600


def show(options: local.Options, policy_file: Path | None, console: Console) -> int:
    """Prints the estimate of the manifest's fine-tune; returns the exit code."""

    def work(recipe: run.Run, places: Places) -> int:
        policy = _policy(policy_file)
        base = base_model.fetch(recipe, places, weights=False)
        sizing = Sizing(recipe, shape_of(base))
        console.print(headline(sizing, base.name), highlight=False, soft_wrap=True)
        console.print(table(sizing, policy.gpus, policy.currency))
        return ExitCode.SUCCEEDED

    return local.with_recipe(options, console, work)


def shape_of(base: base_model.BaseModel) -> model_shape.ModelShape:
    """The shape of a base model.

    Raises:
        BaseModelInvalid: its architecture is not one that is counted.
    """
    shape = model_shape.from_config(base.config)
    if shape is None:
        raise errors.BaseModelInvalid(
            f"{base.name} is a model of type {base.config.get('model_type')!r}, whose memory is not counted here; "
            f"counted are {', '.join(sorted(model_shape.DENSE_TYPES))}"
        )
    return shape


def headline(sizing: Sizing, name: str) -> str:
    """Model, adapter and memory in two sentences."""
    adapter = sizing.shape.adapter_parameters(sizing.recipe.adapter.rank, sizing.recipe.adapter.target_modules)
    levels = {level: f"{sizing.bytes(level) / GIB:.1f} GiB" for level in Activations}
    return (
        f"{name}: {sizing.shape.parameters / 1e9:.2f} billion parameters, {adapter / 1e6:.1f} million in the adapter. "
        f"{sizing.tokens} tokens at a time take {levels[Activations.RECOMPUTED]} with activations recomputed and "
        f"{levels[Activations.KEPT]} with all kept; at least {sizing.least_bytes / GIB:.1f} GiB for short ones."
    )


def table(sizing: Sizing, catalogue: Mapping[str, Gpu], currency: str) -> Table:
    """A row for every card, smallest first."""
    made = Table("GPU", "GiB", "fits", "tokens/s", "1 M tokens", f"{currency} per 1 M")
    for name, gpu in sorted(catalogue.items(), key=lambda item: (item[1].memory_gib, item[0])):
        made.add_row(name, f"{gpu.memory_gib:g}", *row(sizing, gpu))
    return made


def row(sizing: Sizing, gpu: Gpu) -> tuple[str, str, str, str]:
    """How it fits a card, and what it takes there."""
    if sizing.is_refused_by(gpu):
        return "no", "", "", ""
    if not sizing.fits(gpu, Activations.RECOMPUTED):
        return "short sequences only", "", "", ""
    rate = sizing.tokens_per_second(gpu)
    price = gpu.price_per_hour
    how = "all kept" if sizing.fits(gpu, Activations.KEPT) else "recomputed"
    cost = "" if price is None else f"{price * MILLION / rate / HOUR_S:.2f}"
    return how, f"{rate:.0f}", f"{MILLION / rate:.0f} s", cost


def _policy(file: Path | None) -> Policy:
    """The policy of a file: a policy.yaml, or the chart's values with one.

    Raises:
        InvalidSpec: it is no policy.
    """
    if file is None:
        return ALLOW_ALL
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        return Policy.model_validate(document.get("policy", document) if isinstance(document, dict) else document)
    except OSError as error:
        raise errors.InvalidSpec(f"--policy {file} cannot be read: {error.strerror}; name a file") from error
    except yaml.YAMLError as error:
        raise errors.InvalidSpec(f"--policy {file} is no YAML: {error}; mend it") from error
    except ValidationError as error:
        raise errors.InvalidSpec(f"--policy {file}: {api_policy.problem(error)}; mend it") from error

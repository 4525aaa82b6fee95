"""Judges an adapter's files before the engine sees them: what vLLM would reject, and what it would serve wrong.

Reads the folder and nothing else. vLLM 0.32 serves NaN weights, adapters of other models, layers that do not exist and
ranks that the config does not name, all with status 200; each is a check here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraline_api.artifact import AdapterManifest
from loraline_api.conditions import Reason
from loraline_switchboard import tensors
from loraline_switchboard.base_model import BaseModel
from loraline_switchboard.errors import Rejected

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".ckpt"})
PREFIX = "base_model.model."

FACTOR = re.compile(r"^(?P<module>.+)\.(?P<factor>lora_A|lora_B|lora_embedding_A|lora_embedding_B)(\.weight)?$")
LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An adapter as it lies on disk, and what it is to be served with."""

    manifest: AdapterManifest
    config: Mapping[str, Any]
    header: Mapping[str, tensors.Tensor]
    weights: Path
    base: BaseModel
    max_lora_rank: int


@dataclass(frozen=True, slots=True)
class Violation:
    """Why an adapter is refused."""

    reason: Reason
    message: str


def check(folder: Path, manifest: AdapterManifest, base: BaseModel, max_lora_rank: int) -> None:
    """Passes when the adapter can be served on this base.

    Raises:
        Rejected: the first check that the adapter does not pass.
    """
    for violation in _violations(folder, manifest, base, max_lora_rank):
        if violation is not None:
            raise Rejected(violation.reason, f"adapter {manifest.version} {violation.message}")


def _violations(folder: Path, manifest: AdapterManifest, base: BaseModel, max_lora_rank: int) -> Any:
    yield _holds_pickles(folder)
    yield _another_base(manifest, base)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        header = tensors.read_header(folder / WEIGHTS)
    except FileNotFoundError as error:
        yield _invalid(f"has no {Path(error.filename).name}; publish it in PEFT format with safetensors")
        return
    except ValueError as error:
        yield _invalid(f"cannot be read: {error}; publish it again")
        return
    if not isinstance(config, dict):
        yield _invalid(f"has a {CONFIG} that is no JSON object; publish it again")
        return
    candidate = Candidate(manifest, config, header, folder / WEIGHTS, base, max_lora_rank)
    for judge in CHECKS:
        yield judge(candidate)


def _holds_pickles(folder: Path) -> Violation | None:
    for path in sorted(folder.rglob("*")):
        if path.suffix in PICKLES:
            return _invalid(f"holds {path.name}, which can run code when it is loaded; publish safetensors only")
    return None


def _another_base(manifest: AdapterManifest, base: BaseModel) -> Violation | None:
    if manifest.base_model.digest == base.digest:
        return None
    return Violation(
        Reason.BASE_MODEL_MISMATCH,
        f"was trained on {manifest.base_model.uri} (digest {manifest.base_model.digest[:12]}), but the model that is "
        f"served has digest {base.digest[:12]}; serve it in a deployment of its own base model",
    )


def _unsupported_feature(candidate: Candidate) -> Violation | None:
    config = candidate.config
    found = {
        "peft_type": config.get("peft_type", "LORA") != "LORA",
        "use_dora": bool(config.get("use_dora")),
        "bias": config.get("bias", "none") != "none",
        "modules_to_save": bool(config.get("modules_to_save")),
        "layer_replication": bool(config.get("layer_replication")),
        "alora_invocation_tokens": bool(config.get("alora_invocation_tokens")),
    }
    for name, is_used in found.items():
        if is_used:
            return _invalid(f"has {name}={json.dumps(config[name])}, which vLLM does not serve; train it without")
    return None


def _strange_tensor(candidate: Candidate) -> Violation | None:
    if not candidate.header:
        return _invalid(f"has no tensor in {WEIGHTS}; publish it again")
    for name, tensor in candidate.header.items():
        if FACTOR.match(name) is None or not name.startswith(PREFIX):
            return _invalid(f"holds tensor {name}, which is no LoRA factor; vLLM serves plain LoRA only")
        if tensor.dtype not in ("F32", "F16", "BF16") or len(tensor.shape) != 2:
            return _invalid(
                f"holds tensor {name} of type {tensor.dtype} and shape {list(tensor.shape)}; "
                "matrices of F32, F16 or BF16 are served"
            )
    return None


def _missing_factor(candidate: Candidate) -> Violation | None:
    for module, factors in _by_module(candidate).items():
        if len(factors) != 2 or len({name.removeprefix("lora_embedding").removeprefix("lora") for name in factors}) < 2:
            return _invalid(f"has {' and '.join(factors)} alone for {module}; it needs both A and B")
    return None


def _rank_over_limit(candidate: Candidate) -> Violation | None:
    pattern = candidate.config.get("rank_pattern") or {}
    ranks = [_rank(candidate), *pattern.values(), *(a.shape[0] for _, a, _ in _factors(candidate))]
    highest = max(ranks)
    if highest <= candidate.max_lora_rank:
        return None
    return Violation(
        Reason.RANK_EXCEEDS_SERVER,
        f"has rank {highest}, but the server takes ranks up to {candidate.max_lora_rank}; "
        "raise spec.server.maxLoraRank or train with a lower rank",
    )


def _rank_not_as_configured(candidate: Candidate) -> Violation | None:
    pattern = candidate.config.get("rank_pattern") or {}
    for module, a, b in _factors(candidate):
        expected = next(
            (rank for key, rank in pattern.items() if re.fullmatch(rf"(.*\.)?({key})", module)), _rank(candidate)
        )
        if (a.shape[0], b.shape[1]) != (expected, expected):
            return _invalid(
                f"has rank {a.shape[0]} (A) and {b.shape[1]} (B) in {module}, but {CONFIG} says {expected}; "
                "its scale would be wrong, so publish it again"
            )
    return None


def _layer_out_of_range(candidate: Candidate) -> Violation | None:
    layers = candidate.base.layers
    if layers is None:
        return None
    for module, _, _ in _factors(candidate):
        found = LAYER.search(f".{module}.")
        if found is not None and int(found[1]) >= layers:
            return Violation(
                Reason.BASE_MODEL_MISMATCH,
                f"changes {module}, but the base model has {layers} layers (0 to {layers - 1}); "
                "serve it with the model that it was trained on",
            )
    return None


def _module_not_in_base(candidate: Candidate) -> Violation | None:
    modules = [module for module, _, _ in _factors(candidate)]
    known = candidate.base.modules
    if not any(module in known for module in modules):
        return None  # the checkpoint's names are not the modules' names, as in some converted models
    for module in modules:
        if module not in known and ".experts." not in module:
            return Violation(
                Reason.BASE_MODEL_MISMATCH,
                f"changes {module}, which the base model does not have; serve it with the model it was trained on",
            )
    return None


def _shape_not_of_base(candidate: Candidate) -> Violation | None:
    for module, a, b in _factors(candidate):
        shape = candidate.base.shapes.get(module)
        if shape is None or len(shape) != 2:
            continue
        is_embedding = module.endswith(("embed_tokens", "wte"))
        expected = (shape[1], shape[0]) if is_embedding else shape
        found = (b.shape[0], a.shape[1])
        if found != expected:
            return Violation(
                Reason.BASE_MODEL_MISMATCH,
                f"changes {module} with shape {list(found)}, but the base model's has {list(expected)}; "
                "serve it with the model that it was trained on",
            )
    return None


def _not_finite(candidate: Candidate) -> Violation | None:
    name = tensors.first_not_finite(candidate.weights, candidate.header)
    if name is None:
        return None
    return _invalid(f"has a NaN or infinite value in {name}, which would spoil every answer of the server; train again")


CHECKS: tuple[Callable[[Candidate], Violation | None], ...] = (
    _unsupported_feature,  # vLLM answers 500 on these, without the remedy
    _strange_tensor,
    _missing_factor,
    _rank_over_limit,
    _rank_not_as_configured,  # vLLM serves it with a wrong scale
    _layer_out_of_range,  # vLLM drops the weights silently
    _module_not_in_base,
    _shape_not_of_base,
    _not_finite,  # last: it reads all the bytes
)


def _invalid(message: str) -> Violation:
    return Violation(Reason.ADAPTER_INVALID, message)


def _rank(candidate: Candidate) -> int:
    rank = candidate.config.get("r")
    return rank if isinstance(rank, int) else candidate.manifest.rank


def _by_module(candidate: Candidate) -> dict[str, dict[str, tensors.Tensor]]:
    modules: dict[str, dict[str, tensors.Tensor]] = {}
    for name, tensor in candidate.header.items():
        found = FACTOR.match(name.removeprefix(PREFIX))
        if found is not None:
            modules.setdefault(found["module"], {})[found["factor"]] = tensor
    return modules


def _factors(candidate: Candidate) -> list[tuple[str, tensors.Tensor, tensors.Tensor]]:
    """(module, A [rank, in], B [out, rank]) of each module."""
    return [(module, *(factors[name] for name in sorted(factors))) for module, factors in _by_module(candidate).items()]  # type: ignore[misc]

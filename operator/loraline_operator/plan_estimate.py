"""What a run takes, told before it takes anything: memory, the cards that have it, time, price; and the refusal of a
card that cannot hold it.

Only the least that any fine-tune of the model takes refuses a card; the comfortable figures are told.
"""

from __future__ import annotations

from loraline_api import known_models
from loraline_api.finetune import LoraFineTuneSpec
from loraline_api.finetune_status import Estimate
from loraline_api.gpus import Gpu
from loraline_api.memory import GIB, Activations
from loraline_api.policy import Policy
from loraline_api.sizing import Sizing
from loraline_operator import plan_defaults, plan_policy

MAX_GPUS = 16
MILLION = 1_000_000
HOUR_S = 3600


def estimate(spec: LoraFineTuneSpec, namespace: str, policy: Policy) -> Estimate | None:
    """The estimate of a fine-tune; None where it takes no GPU."""
    if not spec.compute.gpus:
        return None
    sizing = _sizing(spec, policy)
    if sizing is None:
        return Estimate(
            message=f"the size of {spec.base_model.uri} is not known: there is no estimate, and no card is refused; "
            "`models` of the policy takes its shape"[:512]
        )
    needed, fitting = _gib(sizing.bytes(Activations.RECOMPUTED)), sizing.fitting(policy.gpus)[:MAX_GPUS]
    fits = f"fits {', '.join(fitting)}" if fitting else "no GPU of the catalogue has that with room to spare"
    plain = Estimate(
        memory_gib=needed,
        least_memory_gib=_gib(sizing.least_bytes),
        fast_memory_gib=_gib(sizing.bytes(Activations.KEPT)),
        gpus=fitting,
        message=f"{needed} GiB for {sizing.tokens} tokens at a time; {fits}",
    )
    gpu_type = plan_defaults.gpu_type(spec, namespace, policy) or next(iter(fitting), None)
    chosen = policy.gpu(gpu_type) if gpu_type is not None else None
    return plain if chosen is None else plain.model_copy(update=_timed(sizing, spec, policy.currency, *chosen))


def too_small(spec: LoraFineTuneSpec, namespace: str, policy: Policy) -> str | None:
    """Why no card, or not the one that is asked for, can hold the fine-tune; None when one can or nobody knows."""
    sizing = _sizing(spec, policy) if spec.compute.gpus else None
    if sizing is None:
        return None
    gpu_type = plan_defaults.gpu_type(spec, namespace, policy)
    largest = max(policy.gpus.items(), key=lambda item: item[1].memory_gib, default=None)
    named = largest if gpu_type is None else policy.gpu(gpu_type)
    if named is None or not sizing.is_refused_by(named[1]):
        return None
    needs = (
        f"spec.baseModel.uri is {spec.base_model.uri} ({sizing.shape.parameters / 1e9:.1f} billion parameters), which "
        f"needs at least {_gib(sizing.least_bytes)} GiB of GPU memory with microBatchSize 1 and every activation "
        "computed again"
    )
    larger = sizing.fitting(policy.gpus)[:3]
    smaller = "set quantization.type to nf4" if spec.quantization.type == "none" else "take a smaller model"
    has = f"has {_number(named[1].memory_gib)}"
    if gpu_type is None:
        return f"{needs}, and the largest GPU of the catalogue, {named[0]}, {has}; {smaller}, {plan_policy.ASK}"
    field = "spec.compute.gpuType" if spec.compute.gpu_type else "the policy's default gpuType"
    remedy = f"set spec.compute.gpuType to {' or '.join(larger)}" if larger else smaller
    return f"{needs}, and {field}, {gpu_type}, {has}; {remedy}"


def _sizing(spec: LoraFineTuneSpec, policy: Policy) -> Sizing | None:
    shape = known_models.shape_of(spec.base_model.uri, policy.models)
    return None if shape is None else Sizing(spec, shape)


def _timed(sizing: Sizing, spec: LoraFineTuneSpec, currency: str, name: str, gpu: Gpu) -> dict[str, object]:
    """Time and price on a card."""
    count = spec.compute.total_gpus
    rate = sizing.tokens_per_second(gpu, count)
    told: dict[str, object] = {
        "gpu": name,
        "tokens_per_second": round(rate),
        "seconds_per_million_tokens": round(MILLION / rate),
    }
    hour_price = None if gpu.price_per_hour is None else gpu.price_per_hour * count
    if hour_price is not None:
        told["cost_per_million_tokens"] = _money(hour_price * MILLION / rate / HOUR_S, currency)
    tokens = _most_tokens(spec)
    if tokens is not None:
        hours = tokens / rate / HOUR_S
        told["hours"] = _number(hours)
        if hour_price is not None:
            told["cost"] = _money(hour_price * hours, currency)
    return told


def _most_tokens(spec: LoraFineTuneSpec) -> int | None:
    """Tokens that are trained at most, where the recipe bounds them: every sequence may be shorter."""
    training, samples = spec.training, spec.dataset.max_samples
    if training.max_steps is not None:
        return training.max_steps * training.batch_size * training.max_seq_length
    return None if samples is None else round(samples * training.epochs) * training.max_seq_length


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"


def _number(value: float) -> str:
    """Two figures that matter, as in 0.35, 4.2 or 120."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 10 else f"{value:.2g}"


def _money(amount: float, currency: str) -> str:
    return f"{amount:.2f} {currency}"

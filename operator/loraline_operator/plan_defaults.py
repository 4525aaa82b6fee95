"""What a fine-tune gets from the policy when it does not say, and the nodes of a card that it names.

Settings only, never a training input: so the policy changes no run, and settles nothing about one that has begun.
"""

from __future__ import annotations

from dataclasses import replace

from loraline_api import gpus
from loraline_api.compute import Compute
from loraline_api.finetune import LoraFineTuneSpec
from loraline_api.gpus import Gpu
from loraline_api.policy import Policy, Rules
from loraline_operator import naming
from loraline_operator.actions import Manifest
from loraline_operator.observed import Meta


def with_defaults(spec: LoraFineTuneSpec, namespace: str, policy: Policy) -> LoraFineTuneSpec:
    """The spec with what it leaves to the policy; training inputs stay, so that the run does."""
    rules = policy.of(namespace)
    deadline = rules.defaults.active_deadline_seconds or rules.limits.active_deadline_seconds
    changes: dict[str, object] = {"compute": _placed(_with_gpu_defaults(spec.compute, rules), policy)}
    if spec.active_deadline_seconds is None:
        changes["active_deadline_seconds"] = deadline
    if spec.ttl_seconds_after_finished is None:
        changes["ttl_seconds_after_finished"] = rules.defaults.ttl_seconds_after_finished
    return spec.model_copy(update=changes)


def gpu_type(spec: LoraFineTuneSpec, namespace: str, policy: Policy) -> str | None:
    """The card that a fine-tune asks for, itself or by the policy's default."""
    return _with_gpu_defaults(spec.compute, policy.of(namespace)).gpu_type


def with_queue(meta: Meta, policy: Policy) -> Meta:
    """The metadata with the label of the default queue, where the object has none."""
    queue = policy.of(meta.namespace).defaults.queue_name
    if queue is None or naming.KUEUE_QUEUE_LABEL in meta.labels:
        return meta
    return replace(meta, labels={**meta.labels, naming.KUEUE_QUEUE_LABEL: queue})


def _with_gpu_defaults(compute: Compute, rules: Rules) -> Compute:
    if not compute.gpus:
        return compute
    defaults = rules.defaults
    changes: dict[str, object] = {}
    if compute.gpu_type is None and defaults.gpu_type is not None:
        changes["gpu_type"] = defaults.gpu_type
    if not compute.node_selector and defaults.node_selector:
        changes["node_selector"] = defaults.node_selector
    if not compute.tolerations and defaults.tolerations:
        changes["tolerations"] = defaults.tolerations
    return compute.model_copy(update=changes)


def _placed(compute: Compute, policy: Policy) -> Compute:
    """The compute with a name of the catalogue turned into what tells its nodes."""
    gpu = policy.gpus.get(compute.gpu_type or "")
    if gpu is None or not (gpu.node_selector or gpu.products):
        return compute
    changes: dict[str, object] = {"gpu_type": None}
    if gpu.node_selector:
        changes["node_selector"] = {**compute.node_selector, **gpu.node_selector}
    elif len(gpu.products) == 1:
        changes["gpu_type"] = gpu.products[0]
    else:
        changes["affinity"] = _on_products(compute.affinity or {}, gpu)
    return compute.model_copy(update=changes)


def _on_products(affinity: Manifest, gpu: Gpu) -> Manifest:
    """The affinity with one of the card's products required: in every term, as one term is enough for a node."""
    wanted = {"key": gpus.PRODUCT_LABEL, "operator": "In", "values": gpu.products}
    nodes = affinity.get("nodeAffinity") or {}
    required = nodes.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms: list[Manifest] = required.get("nodeSelectorTerms") or [{}]
    terms = [{**term, "matchExpressions": [*(term.get("matchExpressions") or ()), wanted]} for term in terms]
    return {
        **affinity,
        "nodeAffinity": {**nodes, "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}},
    }

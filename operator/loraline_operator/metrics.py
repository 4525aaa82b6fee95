"""The Prometheus metrics of the operator; what they are fed with stands where it happens."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

registry = CollectorRegistry()
ProcessCollector(registry=registry)

reconciles = Counter(
    "loraline_reconciles",
    "Reconciles by kind and result (done, retried, error).",
    ["kind", "result"],
    registry=registry,
)
reconcile_seconds = Histogram(
    "loraline_reconcile_seconds",
    "Duration of a reconcile.",
    ["kind"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=registry,
)
queue_depth = Gauge("loraline_queue_depth", "Objects that wait for a reconcile.", registry=registry)
leader = Gauge("loraline_leader", "1 when this replica reconciles, 0 when it stands by.", registry=registry)
finetunes = Gauge("loraline_finetunes", "Fine-tunes by phase, as of the last resync.", ["phase"], registry=registry)
policy_valid = Gauge("loraline_policy_valid", "1 when the policy ConfigMap is in force as it is.", registry=registry)
policy_refusals = Counter(
    "loraline_policy_refusals", "Edits of the policy ConfigMap that were refused.", registry=registry
)
api_requests = Counter(
    "loraline_api_requests",
    "Requests to the Kubernetes API by method and status.",
    ["method", "status"],
    registry=registry,
)


def count_finetunes(phases: Mapping[str, int]) -> None:
    """Sets the number of fine-tunes of each phase; phases that are not named have none."""
    finetunes.clear()
    for phase, number in phases.items():
        finetunes.labels(phase).set(number)

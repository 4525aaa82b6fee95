"""The switchboard's own metrics, in Prometheus' text format. vLLM's are passed on at /engine/metrics."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator

import prometheus_client
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from loraline_switchboard.registry import Registry


class Metrics:
    """Counters of requests, and gauges that are read from the registry when they are asked for."""

    def __init__(self, registry: Registry) -> None:
        self._collectors = CollectorRegistry()
        self._requests = prometheus_client.Counter(
            "loraline_requests_total", "Requests by route and status.", ("route", "code"), registry=self._collectors
        )
        self._collectors.register(_Gauges(registry))

    def count(self, route: str, status: int) -> None:
        """Counts a request; an unknown model counts under the empty route, so that callers cannot grow the series."""
        self._requests.labels(route, str(status)).inc()

    def text(self) -> bytes:
        """All metrics."""
        return prometheus_client.generate_latest(self._collectors)


class _Gauges(Collector):
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """The gauges of this moment."""
        registry = self._registry
        ready = GaugeMetricFamily("loraline_ready", "Whether all that the routes need is proved.")
        ready.add_metric((), float(not registry.why_not_ready()))
        yield ready
        in_flight = GaugeMetricFamily("loraline_in_flight", "Requests being answered, by route.", labels=("route",))
        counts = Tally({registry.base_name: registry.base_in_flight})
        phases: Tally[tuple[str, str]] = Tally()
        for held in registry.held.values():
            counts[held.route] += held.in_flight
            phases[held.route, held.state().phase.value] += 1
        for route, number in counts.items():
            in_flight.add_metric((route,), float(number))
        yield in_flight
        versions = GaugeMetricFamily("loraline_versions", "Versions by route and phase.", labels=("route", "phase"))
        for labels, number in phases.items():
            versions.add_metric(labels, float(number))
        yield versions

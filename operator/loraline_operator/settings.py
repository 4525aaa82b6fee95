"""What the operator is told at its start: images, intervals, namespaces; `__main__` reads flags and environment.

Every planner gets these as a value and reads no environment itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one operator process."""

    trainer_image: str
    """Image of the training pods."""

    switchboard_image: str
    """Image of the switchboard: the operator's own."""

    server_image: str
    """Image of vLLM, unless an AdapterDeployment names its own."""

    image_pull_policy: str = "IfNotPresent"
    """Pull policy of all of them."""

    server_cpu_env: Mapping[str, str] = field(default_factory=dict)
    """Environment of vLLM on CPUs (compute.gpus 0)."""

    trainer_env: Mapping[str, str] = field(default_factory=dict)
    """Environment of training pods, as for a proxy or a mirror of the model hub."""

    progress_interval_s: float = 3.0
    """Least time between two looks at a running attempt; each that shows news is a status write."""

    progress_per_s: float = 4.0
    """Looks at running attempts in a second, over all of them: with many running, each is looked at less often."""

    dataset_interval_s: float = 15.0
    """Time between two looks for a ConfigMap that is not there."""

    resync_interval_s: float = 300.0
    """Time after which every object is looked at again, whatever events said."""

    first_retry_delay_s: float = 10.0
    """Time from the end of a run's first attempt to its second; it doubles with each one."""

    gang_timeout_s: float = 600.0
    """Time in which all pods of an attempt on several nodes have to get one; else those that have one give it back."""

    workers: int = 16
    """Objects that are reconciled at once: a new one is three writes, of some 10 ms each in a cluster, so that 8
    would be at most 270 in a second."""

    namespaces: tuple[str, ...] = ()
    """Namespaces that are watched; empty watches all."""

    namespace: str = "loraline-system"
    """The operator's own namespace, where its Lease lives."""

    policy: str = "loraline-policy"
    """ConfigMap of that namespace with the policy; where there is none, all is allowed."""

    listen: str = "0.0.0.0:8080"
    """Address of /metrics, /healthz and /readyz."""

    lease_duration_s: float = 15.0
    """Time without a renewal after which another replica takes over. Renewed every fifth of it."""

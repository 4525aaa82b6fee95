"""Reads what the fine-tunes of a namespace hold and wait for, where the policy limits its GPUs.

Always from the API server itself: a copy could be older than the Job that took the last GPU.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from loraline_operator import naming, observed_claims, observed_finetune
from loraline_operator.actions import Kind
from loraline_operator.cluster import Cluster
from loraline_operator.observed import FineTuneObject
from loraline_operator.observed_claims import Claim


class ClaimsReader:
    """Reads the line for GPUs; `is_limited` says whether the GPUs of a namespace are."""

    def __init__(self, cluster: Cluster, is_limited: Callable[[str], bool]) -> None:
        self._cluster = cluster
        self._is_limited = is_limited

    async def read(self, object: FineTuneObject) -> tuple[Claim, ...]:
        """The claims of all fine-tunes of the namespace; none where this one cannot have to wait."""
        namespace, spec = object.meta.namespace, object.spec
        is_asking = spec is not None and spec.compute.gpus and not observed_claims.has_attempt(object.status)
        if not is_asking or not self._is_limited(namespace):
            return ()
        live = defaultdict[str, tuple[str, ...]](tuple)
        async for item in self._cluster.list(Kind.JOB, namespace, labels=naming.FINETUNE_LABEL):
            job = observed_finetune.job(item)
            if job.is_live and job.owner_uid is not None:
                live[job.owner_uid] += (job.name,)
        finetunes = self._cluster.list(Kind.FINE_TUNE, namespace)
        return tuple([observed_claims.claim(item, live) async for item in finetunes])

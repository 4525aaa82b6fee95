"""The kopf edge: events of watched kinds become keys of the queue. No logic, no writes, no state."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, Protocol

import kopf

from loraline_api import GROUP, VERSION
from loraline_operator import naming, observed
from loraline_operator.actions import Kind, Ref
from loraline_operator.cluster import RESOURCES, login_info

OURS = f"{naming.MANAGED_BY_LABEL}={naming.MANAGER}"
LONGEST_BACKOFF_S = 10
CHUNK_SIZE = 500


class Changed(Protocol):
    """Takes the news of an object; `news` is what others who refer to it look at, None where that is not known."""

    def __call__(self, ref: Ref, news: Hashable = None) -> None: ...


OWNERS = {
    naming.FINETUNE_LABEL: Kind.FINE_TUNE,
    naming.DEPLOYMENT_LABEL: Kind.ADAPTER_DEPLOYMENT,
    naming.CHECK_LABEL: Kind.ADAPTER_DEPLOYMENT,
}
"""The label by which a child names its object."""


class Backoffs:
    """Waits between attempts of kopf to reach the API server: never the last one, so that no outage is too long."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1, 1, 2, 3, 5, 8), itertools.repeat(LONGEST_BACKOFF_S))


def registry(changed: Changed) -> kopf.OperatorRegistry:
    """The handlers: our kinds, their children (told by label), and ConfigMaps that are marked as datasets."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers)(_login)  # type: ignore[arg-type]
    for kind in (Kind.FINE_TUNE, Kind.ADAPTER_DEPLOYMENT):
        kopf.on.event(GROUP, VERSION, RESOURCES[kind].plural, registry=handlers)(_own(kind, changed))
    for group, kind in (("batch", Kind.JOB), ("", Kind.POD), ("apps", Kind.DEPLOYMENT)):
        kopf.on.event(group, "v1", RESOURCES[kind].plural, registry=handlers)(_child(kind, changed))
    kopf.on.event("", "v1", "configmaps", registry=handlers)(_own(Kind.CONFIG_MAP, changed))
    return handlers


def settings() -> kopf.OperatorSettings:
    """Settings of kopf: it watches, and writes nothing."""
    result = kopf.OperatorSettings()
    result.posting.enabled = False
    result.scanning.disabled = True  # no right to read CRDs and namespaces is needed; `main` waits for the CRDs
    result.networking.error_backoffs = Backoffs()
    result.networking.request_timeout = 30
    result.networking.connect_timeout = 10
    result.watching.server_timeout = 300
    result.watching.connect_timeout = 10
    result.watching.chunk_size = CHUNK_SIZE
    result.peering.standalone = True
    for group, kind in (("batch", Kind.JOB), ("", Kind.POD), ("apps", Kind.DEPLOYMENT)):
        result.watching.label_selectors[group, "v1", RESOURCES[kind].plural] = OURS
    result.watching.label_selectors["", "v1", "configmaps"] = f"{naming.DATASET_LABEL}=true"
    return result


def _login(logger: logging.Logger, settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo:
    return login_info(logger, settings)


def _own(kind: Kind, changed: Changed) -> Callable[..., Any]:
    """Takes events of objects that are keys themselves."""

    async def handle(name: str, namespace: str, type: str | None, body: Mapping[str, Any], **_: Any) -> None:
        changed(Ref(kind, namespace, name), None if type == "DELETED" else observed.news(kind, body))

    return handle


def _child(kind: Kind, changed: Changed) -> Callable[..., Any]:
    """Takes events of children: their label names the object, and others may wait for the child itself."""

    async def handle(name: str, namespace: str, labels: Mapping[str, str], **_: Any) -> None:
        changed(Ref(kind, namespace, name))
        for label, owner in OWNERS.items():
            if label in labels:
                changed(Ref(owner, namespace, labels[label]))

    return handle

"""The kopf edge: events of watched kinds go to the loop. No logic, no writes, no state.

kopf watches what is few: AdapterDeployments, Deployments, and ConfigMaps that are marked as datasets. Fine-tunes and
their children, of which there are many, are watched by reflectors.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, cast

import kopf

from loraline_api import GROUP, VERSION
from loraline_operator import naming
from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.cluster import RESOURCES, login_info

LONGEST_BACKOFF_S = 10
CHUNK_SIZE = 500


class Loop(Protocol):
    """What takes the events."""

    def seen(self, ref: Ref, manifest: Manifest) -> None:
        """One of our objects is there."""

    def gone(self, ref: Ref, manifest: Manifest) -> None:
        """One of our objects is there no longer."""

    def changed(self, ref: Ref) -> None:
        """Something happened to an object, or to a child of it."""


class Backoffs:
    """Waits between attempts of kopf to reach the API server: never the last one, so that no outage is too long."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1, 1, 2, 3, 5, 8), itertools.repeat(LONGEST_BACKOFF_S))


def registry(loop: Loop) -> kopf.OperatorRegistry:
    """The handlers."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers)(_login)  # type: ignore[arg-type]
    kopf.on.event(GROUP, VERSION, RESOURCES[Kind.ADAPTER_DEPLOYMENT].plural, registry=handlers)(_own(loop))
    kopf.on.event("apps", "v1", RESOURCES[Kind.DEPLOYMENT].plural, registry=handlers)(_workload(loop))
    kopf.on.event("", "v1", RESOURCES[Kind.CONFIG_MAP].plural, registry=handlers)(_data(loop))
    return handlers


class Nothing(kopf.DiffBaseStorage):
    """Keeps no copy of what was handled last: without it, kopf copies and compares each object at each event."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:
        """Nothing of an object is compared."""
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Nothing was kept."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is written."""


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
    result.persistence.diffbase_storage = Nothing()
    result.watching.label_selectors["apps", "v1", RESOURCES[Kind.DEPLOYMENT].plural] = naming.OURS
    result.watching.label_selectors["", "v1", "configmaps"] = f"{naming.DATASET_LABEL}=true"
    return result


def _login(logger: logging.Logger, settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo:
    return login_info(logger, settings)


def _own(loop: Loop) -> Callable[..., Any]:
    """Takes events of AdapterDeployments."""

    async def handle(event: kopf.RawEvent, name: str, namespace: str, **_: Any) -> None:
        take = loop.gone if event["type"] == "DELETED" else loop.seen
        take(Ref(Kind.ADAPTER_DEPLOYMENT, namespace, name), cast(Manifest, event["object"]))

    return handle


def _workload(loop: Loop) -> Callable[..., Any]:
    """Takes events of Deployments; their label names the object."""

    async def handle(namespace: str, labels: Mapping[str, str], **_: Any) -> None:
        if naming.DEPLOYMENT_LABEL in labels:
            loop.changed(Ref(Kind.ADAPTER_DEPLOYMENT, namespace, labels[naming.DEPLOYMENT_LABEL]))

    return handle


def _data(loop: Loop) -> Callable[..., Any]:
    """Takes events of ConfigMaps with data."""

    async def handle(name: str, namespace: str, **_: Any) -> None:
        loop.changed(Ref(Kind.CONFIG_MAP, namespace, name))

    return handle

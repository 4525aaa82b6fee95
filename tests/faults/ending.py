"""The end state of a namespace in a form that two runs of a flow can share: no uids, times or chance names.

Also the orphans: what has our labels and no owner that is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from faults.record import WATCHED, Record
from loraline_operator import naming
from loraline_operator.actions import Kind, Manifest

OURS = (Kind.FINE_TUNE, Kind.ADAPTER_DEPLOYMENT)
METADATA = ("name", "labels", "annotations", "finalizers", "ownerReferences")
CHANCE_ANNOTATIONS = frozenset({naming.TABLE_ANNOTATION, naming.HASH_ANNOTATION})
CHANCE_KEYS = frozenset({"clusterIP", "clusterIPs", "nodePort", "resourceVersion", "progress"})
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)|\d\d:\d\d:\d\d UTC")

Ending = Mapping[str, Any]


class World:
    """The objects of a namespace at one moment."""

    def __init__(self, record: Record) -> None:
        self._namespace = record.namespace
        self._items: Mapping[Kind, Collection[Manifest]] = {kind: record.items(kind) for kind in WATCHED}

    def ending(self) -> Ending:
        """The normalised end state."""
        names = self._names()
        state: dict[str, Any] = {}
        for kind, items in self._items.items():
            for item in items:
                name = names.get(item["metadata"]["name"], item["metadata"]["name"])
                state[f"{kind} {name}"] = self._plain(kind, item, names)
        return state

    def orphans(self) -> list[str]:
        """Children of ours whose owner is not there."""
        uids = {item["metadata"]["uid"] for kind in OURS for item in self._items[kind]}
        found = []
        for kind in (Kind.CONFIG_MAP, Kind.SERVICE, Kind.DEPLOYMENT, Kind.JOB):
            for item in self._items[kind]:
                labels = item["metadata"].get("labels") or {}
                owners = {owner["uid"] for owner in item["metadata"].get("ownerReferences") or ()}
                if labels.get(naming.MANAGED_BY_LABEL) == naming.MANAGER and not owners & uids:
                    found.append(f"{kind} {item['metadata']['name']} has no owner that exists")
        return found

    def _names(self) -> dict[str, str]:
        """Chance names of pods, by what made them and the order of their creation."""
        found: dict[str, str] = {}
        pods = sorted(self._items[Kind.POD], key=_age)
        counts: dict[str, int] = {}
        for pod in pods:
            labels = pod["metadata"].get("labels") or {}
            maker = labels.get("batch.kubernetes.io/job-name") or labels.get(naming.DEPLOYMENT_LABEL) or "pod"
            counts[maker] = counts.get(maker, 0) + 1
            found[pod["metadata"]["name"]] = f"{maker}#{counts[maker]}"
        return found

    def _plain(self, kind: Kind, item: Manifest, names: Mapping[str, str]) -> Any:
        metadata = {key: item["metadata"][key] for key in METADATA if item["metadata"].get(key)}
        annotations = metadata.get("annotations") or {}
        metadata["annotations"] = {key: value for key, value in annotations.items() if key not in CHANCE_ANNOTATIONS}
        metadata["ownerReferences"] = [owner["kind"] for owner in metadata.get("ownerReferences") or ()]
        plain = {"metadata": metadata, "data": item.get("data"), "status": _status(kind, item)}
        if kind is not Kind.POD:
            plain["spec"] = item.get("spec")
        text = TIME.sub("TIME", json.dumps(_without_chance(plain), sort_keys=True))
        for uid in re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", text):
            text = text.replace(uid, "UID")
        for name, known in names.items():
            text = text.replace(name, known.partition("#")[0] + "#")  # pods of one maker are as good as each other
        return json.loads(text.replace(self._namespace, "NAMESPACE"))


def _age(item: Manifest) -> tuple[str, str]:
    return item["metadata"]["creationTimestamp"], item["metadata"]["name"]


def _status(kind: Kind, item: Manifest) -> Any:
    """All that our kinds say; of others, whether they have ended."""
    status = item.get("status") or {}
    if kind in OURS:
        return status
    if kind is Kind.POD:
        return status.get("phase")
    if kind is Kind.JOB:
        ends = ("Complete", "Failed")
        return sorted(c["type"] for c in status.get("conditions") or () if c["type"] in ends and c["status"] == "True")
    return None


def _without_chance(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_chance(item) for key, item in value.items() if key not in CHANCE_KEYS}
    if isinstance(value, list):
        return [_without_chance(item) for item in value]
    return value


def difference(wanted: Ending, found: Ending) -> str:
    """The first thing in which two endings differ, in words; empty when they are the same."""
    for name in sorted({*wanted, *found}):
        if name not in found:
            return f"{name} is not there"
        if name not in wanted:
            return f"{name} is there and should not be"
        where = _first(wanted[name], found[name], name)
        if where:
            return where
    return ""


def _first(wanted: Any, found: Any, where: str) -> str:
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in sorted({*wanted, *found}):
            inner = _first(wanted.get(key), found.get(key), f"{where}.{key}")
            if inner:
                return inner
        return ""
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for index, (one, other) in enumerate(zip(wanted, found, strict=True)):
            inner = _first(one, other, f"{where}[{index}]")
            if inner:
                return inner
        return ""
    return "" if wanted == found else f"{where}: {wanted!r:.200} became {found!r:.200}"

"""A stand-in for the API server that answers from memory, so that the operator itself is what limits a measurement.

It knows what the two measured operators ask for: discovery, lists in pages, watches, creation, merge patches, status
writes, resource versions and conflicts. It validates nothing, runs no controller, forgets nothing and keeps nothing.
What is proved about the operator is proved on the real API server; here only its own cost is measured.
Run it with `python -m bench.operator.standin PORT CERTIFICATE KEY [SECONDS]`; answers to writes come after SECONDS.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import parse_qsl

from pydantic_core import from_json, to_json

from loraline_api.crd import UNSEEN

Object = dict[str, Any]

GROUPS = {
    "": ("v1", {"configmaps": "ConfigMap", "events": "Event", "namespaces": "Namespace", "pods": "Pod"}),
    "apps": ("v1", {"deployments": "Deployment"}),
    "batch": ("v1", {"jobs": "Job"}),
    "coordination.k8s.io": ("v1", {"leases": "Lease"}),
    "apiextensions.k8s.io": ("v1", {"customresourcedefinitions": "CustomResourceDefinition"}),
    "loraline.dev": ("v1alpha1", {"lorafinetunes": "LoraFineTune", "adapterdeployments": "AdapterDeployment"}),
}
OURS = ("lorafinetunes", "adapterdeployments")
"""Kinds that have a status of their own, and one from the beginning."""

VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
MAX_WAITING_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """What a path names."""

    group: str
    plural: str
    namespace: str
    name: str
    subresource: str


@dataclass(slots=True)
class Event:
    """A change, ready to be sent."""

    version: int
    type: str
    object: Object
    whole: bytes = b""
    metadata_only: bytes = b""

    def line(self, *, is_metadata_only: bool) -> bytes:
        """The line of a watch, made once."""
        if is_metadata_only:
            self.metadata_only = self.metadata_only or _line(self.type, _metadata_of(self.object))
            return self.metadata_only
        self.whole = self.whole or _line(self.type, self.object)
        return self.whole


@dataclass(slots=True)
class Kind:
    """The objects of a kind, what happened to them, and who follows it."""

    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    watches: list[tuple[Callable[[Object], bool], bool, Connection]] = field(default_factory=list)


class Store:
    """All objects."""

    def __init__(self) -> None:
        self.kinds: defaultdict[str, Kind] = defaultdict(Kind)
        self.version = 1

    def put(self, place: Place, body: Object, old: Object | None) -> Object:
        """Stores a state of an object and tells those who watch."""
        if old is not None and {**body, "metadata": {**body["metadata"], "resourceVersion": ""}} == {
            **old,
            "metadata": {**old["metadata"], "resourceVersion": ""},
        }:
            return old
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        kind = self.kinds[place.plural]
        kind.objects[body["metadata"].get("namespace", ""), body["metadata"]["name"]] = body
        self._tell(kind, Event(self.version, "ADDED" if old is None else "MODIFIED", body))
        return body

    def remove(self, place: Place) -> Object | None:
        """Removes an object."""
        kind = self.kinds[place.plural]
        body = kind.objects.pop((place.namespace, place.name), None)
        if body is not None:
            self.version += 1
            body = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
            self._tell(kind, Event(self.version, "DELETED", body))
        return body

    def _tell(self, kind: Kind, event: Event) -> None:
        kind.events.append(event)
        for matches, is_metadata_only, connection in kind.watches:
            if matches(event.object):
                connection.send_line(event.line(is_metadata_only=is_metadata_only))


class Connection(asyncio.Protocol):
    """One client's connection: requests one after the other, the last of which may be a watch."""

    def __init__(self, store: Store, write_s: float = 0.0) -> None:
        self._store = store
        self._write_s = write_s
        self._buffer = b""
        self._lines: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the way to answer."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends its watches."""
        for kind in self._store.kinds.values():
            kind.watches = [watch for watch in kind.watches if watch[2] is not self]

    def data_received(self, data: bytes) -> None:
        """Answers every whole request."""
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, rest = self._buffer.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            length = int(headers.get("content-length", 0))
            if len(rest) < length:
                return
            body, self._buffer = rest[:length], rest[length:]
            method, target, _ = first.split(" ", 2)
            self._serve(method, target, body, "PartialObjectMetadata" in headers.get("accept", ""))

    def send_line(self, line: bytes) -> None:
        """Sends an event, with all others of this turn of the loop."""
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._flush)
        self._lines.append(line)

    def _flush(self) -> None:
        data = b"".join(self._lines)
        self._lines.clear()
        if data and not self._transport.is_closing():
            assert self._transport.get_write_buffer_size() < MAX_WAITING_BYTES
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _serve(self, method: str, target: str, body: bytes, is_metadata_only: bool) -> None:
        path, _, text = target.partition("?")
        query = dict(parse_qsl(text))
        place = _place(path)
        if place is None:
            self._answer(200, _discovery(path))
        elif method == "GET" and query.get("watch") == "true":
            self._watch(place, query, is_metadata_only)
        elif method == "GET" and not place.name:
            self._answer(200, self._list(place, query, is_metadata_only))
        else:
            code, answer = self._one(method, place, body)
            answer = _metadata_of(answer) if is_metadata_only and code < 300 else answer
            if method == "GET" or not self._write_s:
                self._answer(code, answer)
            else:
                asyncio.get_running_loop().call_later(self._write_s, self._answer, code, answer)

    def _answer(self, code: int, answer: Object) -> None:
        data = to_json(answer)
        head = b"HTTP/1.1 %d -\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (code, len(data))
        self._transport.write(head + data)

    def _watch(self, place: Place, query: dict[str, str], is_metadata_only: bool) -> None:
        kind = self._store.kinds[place.plural]
        matches = _selection(place, query)
        self._transport.write(b"HTTP/1.1 200 -\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        since = int(query.get("resourceVersion") or 0)
        for event in kind.events:
            if event.version > since and matches(event.object):
                self.send_line(event.line(is_metadata_only=is_metadata_only))
        kind.watches.append((matches, is_metadata_only, self))

    def _list(self, place: Place, query: dict[str, str], is_metadata_only: bool) -> Object:
        matches = _selection(place, query)
        items = [item for item in self._store.kinds[place.plural].objects.values() if matches(item)]
        start = int(query.get("continue") or 0)
        end = start + int(query.get("limit") or len(items) + 1)
        metadata = {"resourceVersion": str(self._store.version)}
        if end < len(items):
            metadata["continue"] = str(end)
        shown = [_metadata_of(item) if is_metadata_only else item for item in items[start:end]]
        return {"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": shown}

    def _one(self, method: str, place: Place, body: bytes) -> tuple[int, Object]:
        """A request about one object."""
        if method == "POST":
            return self._create(place, from_json(body))
        old = self._store.kinds[place.plural].objects.get((place.namespace, place.name))
        if old is None:
            return 404, {"kind": "Status", "code": 404, "message": f"{place.plural} {place.name} not found"}
        if method == "GET":
            return 200, old
        if method == "DELETE":
            return 200, self._store.remove(place) or old
        given = from_json(body)
        wanted = (given.get("metadata") or {}).get("resourceVersion", old["metadata"]["resourceVersion"])
        if wanted != old["metadata"]["resourceVersion"]:
            return 409, {"kind": "Status", "code": 409, "message": "the object has been modified"}
        if method == "PATCH":
            new = _merged(old, given)
        else:
            new = {**given, "metadata": {**old["metadata"], **given["metadata"]}}
        if place.subresource == "status":
            new = {**old, "status": new.get("status")}
        elif place.plural in OURS and "status" in old:
            new = {**new, "status": old["status"]}
        changes = new.get("spec") != old.get("spec")
        new["metadata"] = {**new["metadata"], "generation": old["metadata"]["generation"] + changes}
        return 200, self._store.put(place, new, old)

    def _create(self, place: Place, body: Object) -> tuple[int, Object]:
        metadata = body["metadata"]
        name = metadata.setdefault("name", metadata.get("generateName", "") + uuid.uuid4().hex[:8])
        if (place.namespace, name) in self._store.kinds[place.plural].objects:
            message = f"{place.plural} {name} already exists"
            return 409, {"kind": "Status", "code": 409, "reason": "AlreadyExists", "message": message}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata |= {"namespace": place.namespace, "uid": str(uuid.uuid4()), "creationTimestamp": now, "generation": 1}
        if place.plural in OURS:
            body["status"] = dict(UNSEEN)
        return 201, self._store.put(place, body, None)


def _place(path: str) -> Place | None:
    """What a path names; None for discovery."""
    parts = path.strip("/").split("/")
    group, parts = ("", parts[2:]) if parts[0] == "api" else (parts[1] if len(parts) > 1 else "", parts[3:])
    if not parts:
        return None
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    return Place(group, parts[0], namespace, *[*parts[1:], "", ""][:2])


def _discovery(path: str) -> Object:
    """What the API server says about its kinds."""
    if path == "/version":
        return {"major": "1", "minor": "37"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        named = {group: {"groupVersion": f"{group}/{one}", "version": one} for group, (one, _) in GROUPS.items()}
        groups = [{"name": group, "versions": [one], "preferredVersion": one} for group, one in named.items() if group]
        return {"kind": "APIGroupList", "groups": groups}
    group = path.split("/")[2] if path.startswith("/apis/") else ""
    resources: list[Object] = []
    for plural, kind in GROUPS[group][1].items():
        one = {"kind": kind, "singularName": kind.lower(), "namespaced": plural != "namespaces", "verbs": VERBS}
        resources += [{"name": plural, **one}, {"name": f"{plural}/status", **one}]
    return {"kind": "APIResourceList", "resources": resources}


def _selection(place: Place, query: dict[str, str]) -> Callable[[Object], bool]:
    """Whether an object is meant by a list or a watch."""
    labels = [part.partition("=") for part in (query.get("labelSelector") or "").split(",") if part]
    fields = query.get("fieldSelector")

    def matches(item: Object) -> bool:
        metadata = item["metadata"]
        if place.namespace and metadata.get("namespace") != place.namespace:
            return False
        if fields and fields != f"metadata.name={metadata['name']}":
            return False
        own = metadata.get("labels") or {}
        return all(own.get(label) == value if sign else label in own for label, sign, value in labels)

    return matches


def _line(type: str, body: Object) -> bytes:
    return to_json({"type": type, "object": body}) + b"\n"


def _metadata_of(body: Object) -> Object:
    return {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": body["metadata"]}


def _merged(old: Any, patch: Any) -> Any:
    """The merge of RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


async def _serve(port: int, certificate: str, key: str, write_s: float = 0.0) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    store, loop = Store(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(store, write_s), "127.0.0.1", port, ssl=tls)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2], sys.argv[3], *map(float, sys.argv[4:])))

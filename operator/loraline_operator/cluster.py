"""The only module that talks to the Kubernetes API: a small asynchronous REST client on aiohttp.

Every call has a time limit, every refusal becomes one of `loraline_operator.errors`. Keeping a copy of what is watched
is `reflector`'s work.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import aiohttp
import kopf
from pydantic_core import from_json, to_json

from loraline_api import API_VERSION
from loraline_operator import errors, metrics, naming
from loraline_operator.actions import Kind, Manifest, Ref

TIMEOUT_S = 20.0
REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=TIMEOUT_S, connect=TIMEOUT_S / 2)
WATCH_S = 300
"""Time after which the API server ends a watch of one object."""

PAGE_SIZE = 500
"""Objects of one list request (kubectl's own chunk size)."""

LOGIN_LIFETIME_S = 60.0
"""Time after which tokens are read again: the kubelet renews them in place, at most an hour before they end."""

SILENCE_S = 90.0
"""Longest silence of a watch: bookmarks come once a minute."""

OUTAGE_S = 5.0
"""Time without any answer that counts as an outage: after it, everything is looked at again."""

MAX_MESSAGE_CHARS = 600
ADMISSION_WORDS = ("exceeded quota", "failed quota", "denied the request")
"""What ResourceQuota and admission webhooks say; a missing right reads "cannot create resource"."""

JSON = "application/json"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""Answers without spec and data (Kubernetes: API concepts, "Metadata-only fetches")."""

logger = logging.getLogger(__name__)


class Resource(NamedTuple):
    """Where a kind lives in the API."""

    prefix: str
    plural: str


class Page(NamedTuple):
    """A part of a list, and the resource version at which the whole list was read."""

    items: Sequence[Manifest]
    version: str


RESOURCES: Mapping[Kind, Resource] = {
    Kind.FINE_TUNE: Resource(f"/apis/{API_VERSION}", "lorafinetunes"),
    Kind.ADAPTER_DEPLOYMENT: Resource(f"/apis/{API_VERSION}", "adapterdeployments"),
    Kind.CONFIG_MAP: Resource("/api/v1", "configmaps"),
    Kind.SERVICE: Resource("/api/v1", "services"),
    Kind.POD: Resource("/api/v1", "pods"),
    Kind.EVENT: Resource("/api/v1", "events"),
    Kind.JOB: Resource("/apis/batch/v1", "jobs"),
    Kind.DEPLOYMENT: Resource("/apis/apps/v1", "deployments"),
    Kind.LEASE: Resource("/apis/coordination.k8s.io/v1", "leases"),
}


class Cluster:
    """A connection to the API server; an async context manager.

    `fence` is called before every write but those of Leases; it raises when this replica may not write. `recovered` is
    called when the API server answers again after an outage.
    """

    def __init__(self) -> None:
        self.fence: Callable[[], None] = _do_nothing
        self.recovered: Callable[[], None] = _do_nothing
        self._unanswered_since: float | None = None
        self._session: aiohttp.ClientSession | None = None
        self._login: kopf.ConnectionInfo | None = None
        self._login_until = 0.0
        self._tls: ssl.SSLContext | None = None

    async def __aenter__(self) -> Cluster:
        # Compressing large lists costs both sides more than it saves in a cluster's network.
        headers = {"User-Agent": naming.MANAGER, "Accept-Encoding": "identity"}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), headers=headers
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, ref: Ref, *, metadata_only: bool = False) -> Manifest | None:
        """The object, or None when there is none."""
        accept = METADATA if metadata_only else JSON
        try:
            return await self._request("GET", _path(ref.kind, ref.namespace, ref.name), accept=accept)
        except errors.NotFound:
            return None

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
        metadata_only: bool = False,
    ) -> AsyncIterator[Manifest]:
        """All objects of a kind, page by page; `namespace` None is all namespaces.

        Raises:
            errors.NotFound: the cluster does not know the kind.
        """
        pages = self.pages(kind, namespace, labels=labels, fields=fields, metadata_only=metadata_only)
        async for page in pages:
            for item in page.items:
                yield item

    async def pages(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
        metadata_only: bool = False,
    ) -> AsyncIterator[Page]:
        """All objects of a kind as `list`, in pages of one and the same state."""
        query = _selection(labels, fields) | {"limit": str(PAGE_SIZE)}
        while True:
            accept = METADATA_LIST if metadata_only else JSON
            page = await self._request("GET", _path(kind, namespace), query=query, accept=accept)
            yield Page(page.get("items") or (), page["metadata"]["resourceVersion"])
            token = page["metadata"].get("continue")
            if not token:
                return
            query["continue"] = token

    async def watch(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        since: str = "",
        labels: str | None = None,
        fields: str | None = None,
        metadata_only: bool = False,
    ) -> AsyncIterator[tuple[str, Manifest]]:
        """Events after a resource version, bookmarks included, as (type, object), until the server ends the stream.

        Raises:
            errors.Gone: that version is too old to go on from.
            errors.Transient: the stream broke.
        """
        query = _selection(labels, fields) | {"watch": "true", "allowWatchBookmarks": "true"}
        query |= {"resourceVersion": since} if since else {"timeoutSeconds": str(WATCH_S)}
        if kind is Kind.EVENT:  # they have no bookmarks
            query["timeoutSeconds"] = str(int(SILENCE_S / 2))
        path = _path(kind, namespace)
        accept = f"{METADATA},{JSON}" if metadata_only else JSON
        limits = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_S / 2, sock_read=SILENCE_S)
        try:
            async with await self._send("GET", path, query=query, accept=accept, limits=limits) as response:
                await _raise_if_refused("GET", path, response)
                async for line in _lines(response.content):
                    event = from_json(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise _error("WATCH", path, status.get("code", 500), json.dumps(status), None)
                    yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            raise errors.Transient(f"WATCH {path}: the stream broke ({error or type(error).__name__})") from error

    async def create(self, ref: Ref, manifest: Manifest) -> Manifest:
        """Creates an object; returns its metadata as stored.

        Raises:
            errors.AlreadyExists: one of that name is there.
        """
        self._check(ref.kind)
        path = _path(ref.kind, ref.namespace)
        try:
            query = {"fieldManager": naming.MANAGER}
            return await self._request("POST", path, body=manifest, query=query, accept=METADATA)
        except errors.Conflict as error:
            raise errors.AlreadyExists(str(error)) from error

    async def patch(
        self, ref: Ref, patch: Manifest, *, uid: str | None = None, resource_version: str | None = None
    ) -> Manifest:
        """Changes an object by a JSON merge patch, if uid and version are still these; returns its metadata."""
        self._check(ref.kind)
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        metadata = patch.get("metadata", {}) | {key: value for key, value in preconditions.items() if value}
        return await self._request(
            "PATCH",
            _path(ref.kind, ref.namespace, ref.name),
            body=patch | {"metadata": metadata},
            query={"fieldManager": naming.MANAGER},
            content_type="application/merge-patch+json",
            accept=METADATA,
        )

    async def replace(self, ref: Ref, manifest: Manifest, *, subresource: str = "") -> Manifest:
        """Replaces an object, or its status, if its resource version is still the manifest's; returns its metadata."""
        self._check(ref.kind)
        path = _path(ref.kind, ref.namespace, ref.name) + (f"/{subresource}" if subresource else "")
        query = {"fieldManager": naming.MANAGER}
        return await self._request("PUT", path, body=manifest, query=query, accept=METADATA)

    async def delete(self, ref: Ref, uid: str) -> None:
        """Deletes the object of this uid, and what it owns in the background; one that is gone is fine."""
        self._check(ref.kind)
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        with contextlib.suppress(errors.NotFound, errors.Conflict):  # a conflict is another uid: ours is gone
            await self._request("DELETE", _path(ref.kind, ref.namespace, ref.name), body=body)

    def _check(self, kind: Kind) -> None:
        if kind is not Kind.LEASE:
            self.fence()

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Manifest | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Manifest:
        try:
            async with await self._send(
                method, path, body=body, query=query, content_type=content_type, accept=accept
            ) as response:
                metrics.api_requests.labels(method, str(response.status)).inc()
                self._answered()
                await _raise_if_refused(method, path, response)
                return _object(from_json(await response.read()), method, path)
        except errors.Unauthorized:
            self._login_until = 0.0
            raise
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            metrics.api_requests.labels(method, "none").inc()
            if self._unanswered_since is None:
                self._unanswered_since = asyncio.get_running_loop().time()
            raise errors.Transient(
                f"{method} {path}: no answer of the API server ({error or type(error).__name__})"
            ) from error

    async def _send(
        self,
        method: str,
        path: str,
        *,
        body: Manifest | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        limits: aiohttp.ClientTimeout = REQUEST_TIMEOUT,
    ) -> aiohttp.client._RequestContextManager:
        """A request on its way, as aiohttp's context manager."""
        assert self._session is not None
        login = await self._logged_in()
        headers = login.as_http_headers() | {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type
        return self._session.request(
            method,
            login.server.rstrip("/") + path,
            params=query,
            data=to_json(body) if body is not None else None,
            headers=headers,
            ssl=self._tls if self._tls is not None else True,
            proxy=login.proxy_url,
            timeout=limits,
        )

    def _answered(self) -> None:
        """The API server has answered; when it had not for a while, whoever waits for that is told."""
        since, self._unanswered_since = self._unanswered_since, None
        if since is not None and asyncio.get_running_loop().time() - since >= OUTAGE_S:
            logger.info("the API server answers again")
            self.recovered()

    async def _logged_in(self) -> kopf.ConnectionInfo:
        """The connection information, read again when it is a minute old."""
        now = asyncio.get_running_loop().time()
        if self._login is None or now >= self._login_until:
            login = login_info(logger, kopf.OperatorSettings())
            if self._login is None or _key(login) != _key(self._login):
                self._tls = login.as_ssl_context() if login.server.startswith("https") else None
            self._login, self._login_until = login, now + LOGIN_LIFETIME_S
        return self._login


def login_info(logger: logging.Logger, settings: kopf.OperatorSettings) -> kopf.ConnectionInfo:
    """How to reach the cluster: as the pod's service account, or by KUBECONFIG.

    Raises:
        kopf.LoginError: neither is there.
    """
    info = kopf.login_with_service_account(logger=logger, settings=settings)
    info = info or kopf.login_with_kubeconfig(logger=logger, settings=settings)
    if info is None:
        raise kopf.LoginError("found neither a service account nor a kubeconfig; set KUBECONFIG")
    return info


def _do_nothing() -> None:
    """Stands in for a fence and for what waits for the end of an outage."""


def _path(kind: Kind, namespace: str | None, name: str | None = None) -> str:
    resource = RESOURCES[kind]
    middle = f"/namespaces/{namespace}" if namespace else ""
    return f"{resource.prefix}{middle}/{resource.plural}" + (f"/{name}" if name else "")


def _key(login: kopf.ConnectionInfo) -> tuple[object, ...]:
    """What a TLS context is made from."""
    return (
        login.ca_path,
        login.ca_data,
        login.certificate_path,
        login.certificate_data,
        login.private_key_path,
        login.private_key_data,
        login.insecure,
    )


def _selection(labels: str | None, fields: str | None) -> dict[str, str]:
    """The query of a list or a watch."""
    query = {"labelSelector": labels, "fieldSelector": fields}
    return {key: value for key, value in query.items() if value}


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Whole lines of a stream, of any length; one that is cut off by the end of the stream is none."""
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def _object(answer: Any, method: str, path: str) -> Manifest:
    if not isinstance(answer, dict):
        raise errors.Transient(f"{method} {path}: the API server answered something that is no object")
    return answer


async def _raise_if_refused(method: str, path: str, response: aiohttp.ClientResponse) -> None:
    if response.status >= 400:
        said = await response.text()
        raise _error(method, path, response.status, said, response.headers.get("Retry-After"))


def _error(method: str, path: str, status: int, said: str, retry_after: str | None) -> errors.ApiError:
    """The error of a refusal; the API server says it as a Status object, or in plain text when a path is not served."""
    with contextlib.suppress(ValueError, AttributeError):
        said = json.loads(said).get("message", "")
    said = said.strip()[:MAX_MESSAGE_CHARS]
    message = f"{method} {path}: {status} {said}"
    if status == 429 or status >= 500:
        seconds = float(retry_after) if retry_after is not None and retry_after.isdigit() else None
        return errors.Transient(message, seconds)
    if status == 403 and "because it is being terminated" in said:
        return errors.NamespaceEnds(message)
    is_kept_out = any(words in said for words in ADMISSION_WORDS)
    kinds: dict[int, type[errors.ApiError]] = {
        401: errors.Unauthorized,
        403: errors.NotAdmitted if is_kept_out else errors.Forbidden,
        404: errors.NotFound,
        409: errors.Conflict,
        410: errors.Gone,
    }
    error = kinds.get(status, errors.Invalid)(message)
    error.said = said
    return error

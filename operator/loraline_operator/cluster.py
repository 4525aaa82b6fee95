"""The only module that talks to the Kubernetes API: a small asynchronous REST client on aiohttp.

Every call has a time limit, every refusal becomes one of `loraline_operator.errors`. Watching is kopf's work.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple

import aiohttp
import kopf

from loraline_api import API_VERSION
from loraline_operator import errors, metrics, naming
from loraline_operator.actions import Kind, Manifest, Ref

TIMEOUT_S = 20.0
WATCH_S = 300
"""Time after which the API server ends a watch; a connection that died unseen is noticed a little later."""

PAGE_SIZE = 500
"""Objects of one list request (kubectl's own chunk size)."""

LOGIN_LIFETIME_S = 60.0
"""Time after which tokens are read again: the kubelet renews them in place, at most an hour before they end."""

MAX_MESSAGE_CHARS = 600

JSON = "application/json"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""Answers without spec and data (Kubernetes: API concepts, "Metadata-only fetches")."""

logger = logging.getLogger(__name__)


class Resource(NamedTuple):
    """Where a kind lives in the API."""

    prefix: str
    plural: str


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

    `fence` is called before every write but those of Leases; it raises when this replica may not write.
    """

    def __init__(self) -> None:
        self.fence: Callable[[], None] = _no_fence
        self._session: aiohttp.ClientSession | None = None
        self._login: kopf.ConnectionInfo | None = None
        self._login_until = 0.0
        self._tls: ssl.SSLContext | None = None

    async def __aenter__(self) -> Cluster:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, connect=TIMEOUT_S / 2)
        self._session = aiohttp.ClientSession(timeout=timeout, headers={"User-Agent": naming.MANAGER})
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
        query = {"limit": str(PAGE_SIZE)}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        while True:
            accept = METADATA_LIST if metadata_only else JSON
            page = await self._request("GET", _path(kind, namespace), query=query, accept=accept)
            for item in page.get("items") or ():
                yield item
            token = page["metadata"].get("continue")
            if not token:
                return
            query["continue"] = token

    async def watch(self, ref: Ref) -> AsyncIterator[None]:
        """Yields when the object may have changed, also when it comes or goes; ends after a few minutes.

        Raises:
            errors.ApiError: the watch was refused or broke off; what happened since is not told.
        """
        query = {"watch": "1", "fieldSelector": f"metadata.name={ref.name}", "timeoutSeconds": str(WATCH_S)}
        limits = aiohttp.ClientTimeout(total=None, connect=TIMEOUT_S / 2, sock_read=WATCH_S + TIMEOUT_S)
        path = _path(ref.kind, ref.namespace)
        async with self._answered("GET", path, query=query, limits=limits) as response:
            async for _ in response.content.iter_any():
                yield

    async def create(self, ref: Ref, manifest: Manifest) -> Manifest:
        """Creates an object.

        Raises:
            errors.AlreadyExists: one of that name is there.
        """
        self._check(ref.kind)
        path = _path(ref.kind, ref.namespace)
        try:
            return await self._request("POST", path, body=manifest, query={"fieldManager": naming.MANAGER})
        except errors.Conflict as error:
            raise errors.AlreadyExists(str(error)) from error

    async def patch(
        self, ref: Ref, patch: Manifest, *, uid: str | None = None, resource_version: str | None = None
    ) -> Manifest:
        """Changes an object by a JSON merge patch, if uid and resource version are still these."""
        self._check(ref.kind)
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        metadata = patch.get("metadata", {}) | {key: value for key, value in preconditions.items() if value}
        return await self._request(
            "PATCH",
            _path(ref.kind, ref.namespace, ref.name),
            body=patch | {"metadata": metadata},
            query={"fieldManager": naming.MANAGER},
            content_type="application/merge-patch+json",
        )

    async def replace(self, ref: Ref, manifest: Manifest, *, subresource: str = "") -> Manifest:
        """Replaces an object, or its status, if its resource version is still the manifest's."""
        self._check(ref.kind)
        path = _path(ref.kind, ref.namespace, ref.name) + (f"/{subresource}" if subresource else "")
        return await self._request("PUT", path, body=manifest, query={"fieldManager": naming.MANAGER})

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
        headers = {"Accept": accept} | ({"Content-Type": content_type} if body is not None else {})
        async with self._answered(method, path, body=body, query=query, headers=headers) as response:
            return _object(await response.json(), method, path)

    @contextlib.asynccontextmanager
    async def _answered(
        self,
        method: str,
        path: str,
        *,
        body: Manifest | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        limits: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The good answer to a request, still to be read; whatever goes wrong until then becomes an ApiError."""
        assert self._session is not None
        login = await self._logged_in()
        try:
            async with self._session.request(
                method,
                login.server.rstrip("/") + path,
                params=query,
                json=body,
                headers={**login.as_http_headers(), **(headers or {})},
                ssl=self._tls if self._tls is not None else True,
                proxy=login.proxy_url,
                timeout=limits or self._session.timeout,
            ) as response:
                metrics.api_requests.labels(method, str(response.status)).inc()
                if response.status >= 400:
                    if response.status == 401:
                        self._login_until = 0.0
                    said = await response.text()
                    raise _error(method, path, response.status, said, response.headers.get("Retry-After"))
                yield response
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            metrics.api_requests.labels(method, "none").inc()
            raise errors.Transient(
                f"{method} {path}: no answer of the API server ({error or type(error).__name__})"
            ) from error

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


def _no_fence() -> None:
    """Lets every write pass."""


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


def _object(answer: Any, method: str, path: str) -> Manifest:
    if not isinstance(answer, dict):
        raise errors.Transient(f"{method} {path}: the API server answered something that is no object")
    return answer


def _error(method: str, path: str, status: int, said: str, retry_after: str | None) -> errors.ApiError:
    """The error of a refusal; the API server says it as a Status object, or in plain text when a path is not served."""
    with contextlib.suppress(ValueError, AttributeError):
        said = json.loads(said).get("message", "")
    message = f"{method} {path}: {status} {said.strip()[:MAX_MESSAGE_CHARS]}"
    if status == 429 or status >= 500:
        seconds = float(retry_after) if retry_after is not None and retry_after.isdigit() else None
        return errors.Transient(message, seconds)
    kinds: dict[int, type[errors.ApiError]] = {
        401: errors.Forbidden,
        403: errors.Forbidden,
        404: errors.NotFound,
        409: errors.Conflict,
        410: errors.Gone,
    }
    return kinds.get(status, errors.Invalid)(message)

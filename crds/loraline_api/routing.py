"""What operator and switchboard say to each other.

The operator writes a `RoutingTable` into a ConfigMap that every serving pod mounts; the switchboard works towards it
and serves its `SwitchboardState` at /state. Neither calls the other to change anything.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from loraline_api.conditions import Reason
from loraline_api.model import StatusModel
from loraline_api.probe import ProbeAnswer

SWITCHBOARD_PORT = 8080
"""Port of the switchboard, the only way into a serving pod."""

ENGINE_PORT = 8000
"""Port of vLLM, on loopback."""

TABLE_KEY = "routes.json"
"""Key of the routing table in its ConfigMap."""


class RouteVersion(StatusModel):
    """A version that pods must hold."""

    version: str = Field(max_length=12, description="The version.")
    uri: str = Field(max_length=1024, description="S3 prefix of its files.")


class Route(StatusModel):
    """A route: callers' model name, the version that answers, and all versions that pods must hold for it."""

    name: str = Field(max_length=63, description="The model name that callers use.")
    serving: str | None = Field(default=None, max_length=12, description="Version that answers; None: not yet any.")
    versions: list[RouteVersion] = Field(
        default=[], max_length=4, description="Versions to hold, the serving one included."
    )
    waiting_for: str = Field(
        default="", max_length=512, description="What a route without a version waits for, for callers."
    )


class RoutingTable(StatusModel):
    """What every pod of a deployment must hold and how it routes."""

    max_lora_rank: int = Field(description="Highest rank the server takes.")
    routes: list[Route] = Field(default=[], description="Routes, sorted by name.")
    distrusted: list[str] | None = Field(
        default=None, max_length=1000, description="Pods that answer the probe otherwise than the others: not ready."
    )

    def encode(self) -> str:
        """The JSON text for the ConfigMap; equal tables give equal texts."""
        return self.model_dump_json(by_alias=True, exclude_none=True)

    @property
    def digest(self) -> str:
        """sha256 of the JSON text, first 12 hex digits: by it operator and switchboard name a table."""
        return hashlib.sha256(self.encode().encode()).hexdigest()[:12]


class VersionPhase(StrEnum):
    """Phases of a version in a pod."""

    WAITING = "Waiting"
    DOWNLOADING = "Downloading"
    LOADING = "Loading"
    PROVED = "Proved"
    RETRYING = "Retrying"
    REJECTED = "Rejected"
    DRAINING = "Draining"


class VersionState(StatusModel):
    """One version of one route in a pod."""

    route: str = Field(max_length=63, description="The route.")
    version: str = Field(max_length=12, description="The version.")
    phase: VersionPhase = Field(description="How far it is; Rejected is final for this version, Retrying is not.")
    reason: Reason | None = Field(default=None, description="Why it is Retrying or Rejected.")
    message: str = Field(default="", max_length=1200, description="The same in a sentence.")
    root: str | None = Field(default=None, description="Folder that vLLM lists for it.")
    fingerprint: str | None = Field(default=None, description="Hash of the greedy probe's token ids.")
    answer: ProbeAnswer | None = Field(default=None, description="The answer itself, compared between replicas.")
    in_flight: int = Field(default=0, ge=0, description="Requests that it is answering.")
    proved_at: datetime | None = Field(default=None, description="When it was first proved since it was loaded.")
    checked_at: datetime | None = Field(default=None, description="When the proof last held.")


class RouteState(StatusModel):
    """What a route answers with in a pod."""

    name: str = Field(max_length=63, description="The route.")
    serving: str | None = Field(default=None, max_length=12, description="Version that answers.")


class SwitchboardState(StatusModel):
    """What a pod's switchboard serves at /state."""

    table_digest: str | None = Field(
        default=None, description="`RoutingTable.digest` of the table that it works towards."
    )
    ready: bool = Field(default=False, description="Whether all that the routes need is proved.")
    message: str = Field(default="", max_length=1200, description="Why it is not ready.")
    engine_healthy: bool = Field(default=False, description="Whether vLLM answers its health check.")
    base_digest: str | None = Field(default=None, description="Identity of the base model that is served.")
    versions: list[VersionState] = Field(default=[], description="Versions in this pod.")
    routes: list[RouteState] = Field(default=[], description="Routes of this pod.")

"""Which version each route of an AdapterDeployment should serve, or why none can be named.

Judges by what the specs and statuses say; what only the adapter's bytes tell is judged in the pods.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from loraline_api import conditions as api_conditions
from loraline_api.conditions import ConditionType, Reason
from loraline_api.deployment import AdapterDeploymentSpec, AdapterRoute
from loraline_api.routing import RouteVersion
from loraline_api.storage import S3Access, Scheme, parse_uri
from loraline_operator.observed import FineTuneObject
from loraline_operator.plan_selection import Selection

PUBLISHED = re.compile(r"^s3://[^/]+/(?:.*/)?adapters/(?P<version>[0-9a-f]{12})/?$")


@dataclass(frozen=True, slots=True)
class Target:
    """What a route should serve: a version, or a reason and a sentence why there is none (yet)."""

    name: str
    version: RouteVersion | None = None
    reason: Reason = Reason.SERVING
    message: str = ""
    is_final: bool = False
    """Whether only a person's change mends it."""
    is_selected: bool = False
    """Whether spec.adapterSelector made the route."""


def targets(spec: AdapterDeploymentSpec, finetunes: Mapping[str, FineTuneObject], selection: Selection) -> list[Target]:
    """The target of each route, sorted by name."""
    own = [_target(spec, route, finetunes) for route in spec.adapters]
    selected = [
        replace(_of_finetune(spec, finetune.meta.name, finetune), is_selected=True) for finetune in selection.routes
    ]
    return sorted([*own, *selected], key=lambda target: target.name)


def storage(spec: AdapterDeploymentSpec, finetunes: Mapping[str, FineTuneObject]) -> S3Access | str | None:
    """How the pods reach S3: the spec's storage, or that of the outputs of the fine-tunes of adapters[].

    Returns a sentence when the outputs differ, and None when no fine-tune tells yet.
    """
    if spec.storage is not None:
        return spec.storage
    if spec.adapter_selector is not None:
        return (
            "spec.adapterSelector needs spec.storage, as the pods must know where adapters lie before fine-tunes come: "
            "set spec.storage"
        )
    found: dict[str, S3Access] = {}
    for route in spec.adapters:
        finetune = finetunes.get(route.finetune_ref.name) if route.finetune_ref else None
        if finetune is not None and finetune.spec is not None:
            output = finetune.spec.output
            found[finetune.meta.name] = S3Access(
                endpoint=output.endpoint, region=output.region, secret_ref=output.secret_ref
            )
    if not found:
        return None if any(route.finetune_ref for route in spec.adapters) else S3Access()
    first, access = next(iter(found.items()))
    for name, other in found.items():
        if other != access:
            return (
                f"fine-tunes {first} and {name} publish to different S3 services (endpoint, region or Secret of "
                "spec.output): set spec.storage to one that reads both, or serve them in two AdapterDeployments"
            )
    return access


def _target(spec: AdapterDeploymentSpec, route: AdapterRoute, finetunes: Mapping[str, FineTuneObject]) -> Target:
    if route.finetune_ref is None:
        return _of_uri(route.name, route.uri or "")
    name = route.finetune_ref.name
    finetune = finetunes.get(name)
    if finetune is None:
        return Target(
            route.name,
            reason=Reason.FINETUNE_NOT_FOUND,
            message=f"LoraFineTune {name} does not exist in this namespace; create it or correct "
            f"spec.adapters[{route.name}].finetuneRef.name",
        )
    return _of_finetune(spec, route.name, finetune)


def _of_uri(name: str, uri: str) -> Target:
    found = PUBLISHED.match(uri)
    if found is not None:
        return Target(name, RouteVersion(version=found["version"], uri=uri.rstrip("/")))
    return Target(
        name,
        reason=Reason.INVALID_SPEC,
        message=f"spec.adapters[{name}].uri is {uri}, which names no published adapter; "
        "give it as s3://bucket/prefix/adapters/<version>, as status.adapter.uri of a LoraFineTune has it",
        is_final=True,
    )


def _of_finetune(spec: AdapterDeploymentSpec, route: str, finetune: FineTuneObject) -> Target:
    name, adapter = finetune.meta.name, finetune.status.adapter
    if adapter is None:
        return _waiting(spec, route, finetune)
    if adapter.rank > spec.server.max_lora_rank:
        return Target(
            route,
            reason=Reason.RANK_EXCEEDS_SERVER,
            message=f"adapter {adapter.version} of LoraFineTune {name} has rank {adapter.rank}, but "
            f"spec.server.maxLoraRank is {spec.server.max_lora_rank}; raise it or train with a lower rank",
            is_final=True,
        )
    is_current = finetune.status.observed_generation == finetune.meta.generation
    trained_on = finetune.spec.base_model.uri if finetune.spec is not None and is_current else ""
    if _are_other_models(trained_on, spec.base_model.uri):
        return Target(
            route,
            reason=Reason.BASE_MODEL_MISMATCH,
            message=f"LoraFineTune {name} tunes {trained_on}, but spec.baseModel.uri is {spec.base_model.uri}; "
            "serve it in an AdapterDeployment of its own base model",
            is_final=True,
        )
    return Target(route, RouteVersion(version=adapter.version, uri=adapter.uri))


def _waiting(spec: AdapterDeploymentSpec, route: str, finetune: FineTuneObject) -> Target:
    name = finetune.meta.name
    if finetune.spec is not None and finetune.spec.adapter.rank > spec.server.max_lora_rank:
        return Target(
            route,
            reason=Reason.RANK_EXCEEDS_SERVER,
            message=f"LoraFineTune {name} trains with adapter.rank {finetune.spec.adapter.rank}, but "
            f"spec.server.maxLoraRank is {spec.server.max_lora_rank}; raise it or train with a lower rank",
            is_final=True,
        )
    failed = api_conditions.find(tuple(finetune.status.conditions), ConditionType.FAILED)
    if failed is not None and failed.status is api_conditions.ConditionStatus.TRUE:
        message = f"LoraFineTune {name} failed with {failed.reason} and has no adapter; see its conditions"
        return Target(route, reason=Reason.WAITING_FOR_ADAPTER, message=message, is_final=True)
    message = f"LoraFineTune {name} has no adapter yet; see its status"  # its phase would change the table
    return Target(route, reason=Reason.WAITING_FOR_ADAPTER, message=message)


def _are_other_models(one: str, other: str) -> bool:
    """Whether two URIs name different models for sure: both are names of the hub. Copies elsewhere may be the same."""
    if not one:
        return False
    first, second = parse_uri(one), parse_uri(other)
    return first.scheme is second.scheme is Scheme.HF and first != second

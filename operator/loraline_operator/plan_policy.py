"""Judges objects by the policy of their namespace: the first thing that is not allowed, in a sentence.

When a fine-tune is judged is said in `plan_admission`; the line for GPUs is in `plan_gpu_line`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from loraline_api import conditions as api_conditions
from loraline_api.conditions import ConditionType, Reason
from loraline_api.deployment import AdapterDeploymentSpec
from loraline_api.finetune import LoraFineTuneSpec
from loraline_api.policy import Limits, Policy, Rules
from loraline_api.storage import Scheme, parse_uri
from loraline_operator.observed import DeploymentObject

ASK = "or ask the platform team"


@dataclass(frozen=True, slots=True)
class Case:
    """What is judged: a spec, where it is, and what holds there."""

    spec: LoraFineTuneSpec
    namespace: str
    rules: Rules

    @property
    def limits(self) -> Limits:
        """The bounds of the namespace."""
        return self.rules.limits

    @property
    def whose(self) -> str:
        """The policy in a message."""
        return f"the policy of namespace {self.namespace}"


Check = Callable[[Case], str | None]


def finetune_violation(spec: LoraFineTuneSpec, namespace: str, policy: Policy) -> str | None:
    """The first thing that the policy does not allow, in a sentence; None when it allows all."""
    case = Case(spec, namespace, policy.of(namespace))
    return next((message for check in CHECKS if (message := check(case)) is not None), None)


def base_model_not_allowed(case: Case) -> str | None:
    """The base model is none of those that the namespace may use."""
    return _base_model(case.spec.base_model.uri, case.namespace, case.rules)


def bucket_not_allowed(case: Case) -> str | None:
    """Data or adapters lie in a bucket that the namespace may not use."""
    spec = case.spec
    uris = {"spec.output.uri": spec.output.uri, "spec.dataset.train.uri": spec.dataset.train.uri}
    if spec.dataset.eval is not None:
        uris["spec.dataset.eval.uri"] = spec.dataset.eval.uri
    problems = (_bucket(field, uri, case.namespace, case.rules) for field, uri in uris.items())
    return next((problem for problem in problems if problem is not None), None)


def rank_too_high(case: Case) -> str | None:
    """The adapter's rank is over the limit."""
    return _over(case, "spec.adapter.rank", case.spec.adapter.rank, case.limits.rank)


def sequence_too_long(case: Case) -> str | None:
    """The sequences are over the limit."""
    return _over(case, "spec.training.maxSeqLength", case.spec.training.max_seq_length, case.limits.max_seq_length)


def deadline_too_long(case: Case) -> str | None:
    """The deadline is over the limit."""
    asked, limit = case.spec.active_deadline_seconds, case.limits.active_deadline_seconds
    return _over(case, "spec.activeDeadlineSeconds", asked, limit)


def too_many_gpus(case: Case) -> str | None:
    """The fine-tune alone is over a limit of GPUs, so that no waiting would help."""
    asked, own, all_together = case.spec.compute.total_gpus, case.limits.gpus_per_fine_tune, case.limits.gpus
    limit = min((bound for bound in (own, all_together) if bound is not None), default=asked)
    if asked <= limit:
        return None
    return f"spec.compute asks for {counted(asked)} and {case.whose} allows {limit}; lower it, {ASK}"


CHECKS: tuple[Check, ...] = (
    base_model_not_allowed,
    bucket_not_allowed,
    rank_too_high,
    sequence_too_long,
    deadline_too_long,
    too_many_gpus,
)


def deployment_violation(spec: AdapterDeploymentSpec, namespace: str, policy: Policy) -> str | None:
    """The first thing of an AdapterDeployment that the policy does not allow, in a sentence."""
    rules = policy.of(namespace)
    return next(_deployment_problems(spec, namespace, rules), None)


def deployment_refused(object: DeploymentObject, policy: Policy, *, has_workload: bool) -> tuple[Reason, str] | None:
    """Why an AdapterDeployment is not acted upon; one that serves what the policy allowed before goes on unjudged."""
    ready = api_conditions.find(tuple(object.status.conditions), ConditionType.READY)
    is_known = object.status.observed_generation == object.meta.generation
    serves = has_workload or any(route.version is not None for route in object.status.routes)
    is_admitted = serves and is_known and ready is not None and ready.reason != Reason.POLICY_VIOLATION
    if object.spec is None or is_admitted:
        return None
    message = deployment_violation(object.spec, object.meta.namespace, policy)
    return None if message is None else (Reason.POLICY_VIOLATION, message)


def _deployment_problems(spec: AdapterDeploymentSpec, namespace: str, rules: Rules) -> Iterator[str]:
    base = _base_model(spec.base_model.uri, namespace, rules)
    if base is not None:
        yield base
    for route in spec.adapters:
        problem = _bucket(f"spec.adapters[{route.name}].uri", route.uri, namespace, rules) if route.uri else None
        if problem is not None:
            yield problem
    limit, asked = rules.limits.gpus_per_deployment, spec.replicas * spec.compute.total_gpus
    if limit is not None and asked > limit:
        yield (
            f"spec.replicas is {spec.replicas} and spec.compute.gpus is {spec.compute.gpus}, which is {asked} GPUs, "
            f"and the policy of namespace {namespace} allows {limit}; lower spec.replicas, {ASK}"
        )


def _base_model(uri: str, namespace: str, rules: Rules) -> str | None:
    if rules.allows_base_model(uri):
        return None
    allowed = _listed(rules.base_models or [])
    return (
        f"spec.baseModel.uri is {uri} and the policy of namespace {namespace} allows {allowed}; use one of these, {ASK}"
    )


def _bucket(field: str, uri: str, namespace: str, rules: Rules) -> str | None:
    place = parse_uri(uri)
    if place.scheme is not Scheme.S3 or rules.allows_bucket(place.host, place.path):
        return None
    allowed = _listed(rules.buckets or [])
    whose = f"the policy of namespace {namespace}"
    return f"{field} is {uri} and {whose} allows the buckets {allowed}; use one of these, {ASK}"


def counted(gpus: int) -> str:
    """A number of GPUs in words."""
    return "1 GPU" if gpus == 1 else f"{gpus} GPUs"


def _over(case: Case, field: str, asked: int | None, limit: int | None) -> str | None:
    if asked is None or limit is None or asked <= limit:
        return None
    return f"{field} is {asked} and {case.whose} allows {limit}; lower it, {ASK}"


def _listed(patterns: list[str]) -> str:
    """The first few patterns."""
    shown = ", ".join(patterns[:5]) or "none"
    return shown if len(patterns) <= 5 else f"{shown} and {len(patterns) - 5} more"

"""Looks at plans for fine-tunes, for tables of tests: what is planned, what the status says, what follows."""

from __future__ import annotations

from datetime import datetime

from loraline_api import conditions, run
from loraline_api.conditions import ConditionType
from loraline_api.finetune_status import LoraFineTuneStatus
from loraline_api.policy import ALLOW_ALL, Policy
from loraline_operator import naming, plan_finetune
from loraline_operator.actions import Action, Kind, Plan
from loraline_operator.observed_finetune import Job, ObservedFineTune
from unit.operator.builders import NOW, SETTINGS, FineTuneBuilder, a_job


def planned(
    builder: FineTuneBuilder, observed: ObservedFineTune, now: datetime = NOW, policy: Policy = ALLOW_ALL
) -> Plan[LoraFineTuneStatus]:
    """The plan for a fine-tune with these children, under a policy."""
    return plan_finetune.plan(builder.object(), observed, SETTINGS, now, policy)


def status_of(plan: Plan[LoraFineTuneStatus]) -> LoraFineTuneStatus:
    """The status that a plan writes."""
    assert plan.status is not None
    return plan.status


def after(
    builder: FineTuneBuilder, observed: ObservedFineTune, now: datetime = NOW, policy: Policy = ALLOW_ALL
) -> FineTuneBuilder:
    """The fine-tune with the status that the plan leaves."""
    return builder.with_status(status_of(planned(builder, observed, now, policy)))


def wanted(builder: FineTuneBuilder) -> tuple[str, str]:
    """Run id and settings hash that the spec asks for."""
    object = builder.object()
    assert object.spec is not None
    asked = run.resolve(
        object.meta.name,
        object.meta.namespace,
        object.spec,
        data_digests={},
        restart=object.meta.annotations.get(naming.RESTART_ANNOTATION),
    )
    return asked.id, run.settings_hash(object.spec, naming.passed_labels(object.meta.labels))


def the_job(builder: FineTuneBuilder, attempt: int = 1) -> Job:
    """The Job that the spec asks for."""
    return a_job(*wanted(builder), attempt)


def told(status: LoraFineTuneStatus, kind: ConditionType = ConditionType.READY) -> tuple[str, str, str]:
    """Status, reason and message of a condition."""
    condition = conditions.find(tuple(status.conditions), kind)
    assert condition is not None
    return condition.status, condition.reason, condition.message


def names(actions: tuple[Action, ...]) -> list[tuple[str, Kind, str]]:
    """The actions in short."""
    return [(type(action).__name__, action.ref.kind, action.ref.name) for action in actions]

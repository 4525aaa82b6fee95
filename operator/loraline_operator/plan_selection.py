"""Which fine-tunes `spec.adapterSelector` makes into routes, and which of them it cannot, with the reason.

A tenant's label never turns the whole deployment's health: what is left out is told by the condition Selected.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from loraline_api.conditions import Reason
from loraline_api.deployment import MAX_ROUTES, AdapterDeploymentSpec
from loraline_operator import manifests_engine
from loraline_operator.observed import FineTuneObject


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A fine-tune that is selected and becomes no route."""

    name: str
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Selection:
    """The fine-tunes with the selector's labels."""

    routes: tuple[FineTuneObject, ...] = ()
    """Those that become routes, by name."""
    waiting: tuple[str, ...] = ()
    """Names of those that have no adapter yet."""
    left_out: tuple[LeftOut, ...] = ()
    own: int = 0
    """Those that adapters[] names under the same name."""

    @property
    def matched(self) -> int:
        """All of them."""
        return len(self.routes) + len(self.waiting) + len(self.left_out) + self.own


def select(spec: AdapterDeploymentSpec, finetunes: Mapping[str, FineTuneObject], present: Collection[str]) -> Selection:
    """The selection.

    Args:
        finetunes: fine-tunes of the namespace by name; others than the selected ones are passed over.
        present: names of the routes that the pods have: they stay when there are too many.
    """
    if spec.adapter_selector is None:
        return Selection()
    own = {route.name: route for route in spec.adapters}
    routes, waiting, left_out, named = [], [], [], 0
    for name, finetune in sorted(finetunes.items()):
        if finetune.meta.is_deleting or not spec.adapter_selector.matches(finetune.meta.labels):
            continue
        clash = _clash(spec, name)
        if clash is not None:
            left_out.append(clash)
        elif name in own:
            named += 1
        elif finetune.status.adapter is None and name not in present:
            waiting.append(name)
        else:
            routes.append(finetune)
    room = MAX_ROUTES - len(own)
    routes.sort(key=lambda finetune: (finetune.meta.name not in present, finetune.meta.name))
    left_out += [_too_many(finetune.meta.name) for finetune in routes[room:]]
    kept = sorted(routes[:room], key=lambda finetune: finetune.meta.name)
    return Selection(tuple(kept), tuple(waiting), tuple(left_out), named)


def _clash(spec: AdapterDeploymentSpec, name: str) -> LeftOut | None:
    """Why the fine-tune's name cannot be a route's."""
    if name == manifests_engine.base_name(spec):
        message = (
            f"LoraFineTune {name} has the name of the base model, {spec.base_model.uri}; "
            "name it in spec.adapters under another name"
        )
        return LeftOut(name, Reason.NAME_CONFLICT, message)
    route = next((route for route in spec.adapters if route.name == name), None)
    if route is None or (route.finetune_ref is not None and route.finetune_ref.name == name):
        return None
    other = route.uri if route.finetune_ref is None else f"LoraFineTune {route.finetune_ref.name}"
    message = f"LoraFineTune {name} has the name of spec.adapters[{name}], which serves {other}; rename that entry"
    return LeftOut(name, Reason.NAME_CONFLICT, message)


def _too_many(name: str) -> LeftOut:
    message = (
        f"LoraFineTune {name} is one too many: a deployment has at most {MAX_ROUTES} routes; narrow "
        "spec.adapterSelector, or serve it in another AdapterDeployment"
    )
    return LeftOut(name, Reason.TOO_MANY_ROUTES, message)

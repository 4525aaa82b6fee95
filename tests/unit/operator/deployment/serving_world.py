"""A small world around one AdapterDeployment: it applies plans to manifests in memory, and its pods follow the table.

The pods' switchboards are played by rules: a pod adopts the table it is told, loads what is wanted, proves it unless it
is to be refused, and points its routes as the real one does. So are the Jobs that check adapters.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from loraline_api.conditions import ConditionStatus, Reason
from loraline_api.deployment import AdapterDeploymentStatus
from loraline_api.finetune_status import AdapterRef, LoraFineTuneStatus
from loraline_api.preflight import Verdict
from loraline_api.probe import ProbeAnswer
from loraline_api.routing import TABLE_KEY, RouteState, RoutingTable, SwitchboardState, VersionPhase, VersionState
from loraline_operator import naming, observed, observed_deployment, plan_deployment
from loraline_operator.actions import Create, Delete, Kind, Manifest, Patch, Plan, Ref
from loraline_operator.observed import DeploymentObject, FineTuneObject
from loraline_operator.observed_deployment import ObservedDeployment, ServingPod
from unit.operator.builders import NOW, SETTINGS, a_finetune

UID = "99999999-2222-3333-4444-555555555555"
FIRST, SECOND, THIRD = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"


BASE_DIGEST = "d" * 64


@functools.cache
def an_answer(version: str, seed: int) -> ProbeAnswer:
    """What a replica answers to the probe of a version."""
    first = int(version[0], 16)
    return ProbeAnswer(token_ids=[first + 100 * seed, 2], logprobs=[-1.0 - seed, -2.0])


def uri(version: str) -> str:
    """Where a version lies."""
    return f"s3://adapters/tickets/adapters/{version}"


@dataclass
class SimPod:
    """A serving pod."""

    name: str
    table: RoutingTable | None = None
    annotation: str = ""
    phases: dict[tuple[str, str], VersionPhase] = field(default_factory=dict)
    serving: dict[str, str] = field(default_factory=dict)
    answers: bool = True
    crash: str = ""
    is_lost: bool = False  # its node is gone: nothing answers, and the node controller has noticed
    seed: int = 0  # replicas of another seed answer the probe otherwise
    template: str = "template-1"
    base_digest: str = BASE_DIGEST

    def adopt(self, table: RoutingTable) -> None:
        """Adopts the table; versions that it does not hold yet wait."""
        self.table = table
        wanted = {(route.name, item.version) for route in table.routes for item in route.versions}
        for key in wanted:
            self.phases.setdefault(key, VersionPhase.WAITING)
        self._point()
        held = wanted | set(self.serving.items())
        self.phases = {key: phase for key, phase in self.phases.items() if key in held}

    def follow(self, table: RoutingTable, refused: frozenset[str]) -> None:
        """Adopts the table, and brings every version of it up or refuses it."""
        self.adopt(table)
        for key in self.phases:
            self.phases[key] = VersionPhase.REJECTED if key[1] in refused else VersionPhase.PROVED
        self._point()

    @property
    def is_ready(self) -> bool:
        """Whether all routes of its table answer as the table says."""
        if self.table is None or not self.answers or self.is_lost or self.name in (self.table.distrusted or ()):
            return False
        return all(route.serving in (None, self.serving.get(route.name)) for route in self.table.routes)

    def observed(self) -> ServingPod:
        """As the planner sees it."""
        state = SwitchboardState(
            table_digest=self.table.digest if self.table else None,
            ready=self.is_ready,
            engine_healthy=True,
            base_digest=self.base_digest,
            versions=[
                VersionState(
                    route=route,
                    version=version,
                    phase=phase,
                    answer=an_answer(version, self.seed) if phase is VersionPhase.PROVED else None,
                    fingerprint=an_answer(version, self.seed).fingerprint if phase is VersionPhase.PROVED else None,
                    proved_at=NOW + timedelta(seconds=self.seed) if phase is VersionPhase.PROVED else None,
                    reason=Reason.ADAPTER_INVALID if phase is VersionPhase.REJECTED else None,
                    message="adapter holds a NaN" if phase is VersionPhase.REJECTED else "",
                )
                for (route, version), phase in sorted(self.phases.items())
            ],
            routes=[
                RouteState(name=route.name, serving=self.serving.get(route.name))
                for route in (self.table.routes if self.table else [])
            ],
        )
        return ServingPod(
            self.name,
            f"uid-{self.name}",
            ip="10.0.0.1",
            is_ready=self.is_ready,
            template=self.template,
            table_annotation=self.annotation,
            crash=self.crash,
            state=state if self.answers and not self.is_lost else None,
        )

    def _point(self) -> None:
        assert self.table is not None
        for route in self.table.routes:
            if route.serving and self.phases.get((route.name, route.serving)) is VersionPhase.PROVED:
                self.serving[route.name] = route.serving
        names = {route.name for route in self.table.routes}
        self.serving = {name: version for name, version in self.serving.items() if name in names}


class World:
    """One AdapterDeployment, its children, its pods and its fine-tunes."""

    def __init__(self, *, pods: int = 1, **spec: Any) -> None:
        self.manifest: Manifest = {
            "metadata": {
                "name": "tickets",
                "namespace": "support",
                "uid": UID,
                "resourceVersion": "1",
                "generation": 1,
            },
            "spec": {
                "baseModel": {"uri": "hf://org/model"},
                "replicas": pods,
                "adapters": [{"name": "tickets", "finetuneRef": {"name": "tickets"}}],
                **spec,
            },
        }
        self.children: dict[Ref, Manifest] = {}
        self.check_pods: dict[Ref, Manifest] = {}
        self.finetunes: dict[str, FineTuneObject] = {}
        self.pods: list[SimPod] = []
        self.refused: frozenset[str] = frozenset()  # by pods
        self.refusal: str | None = None  # of a child, by the API server
        self.verdicts: dict[str, Verdict | None] = {}  # of checks by version; None: its pod was killed
        self.checked: list[str] = []
        self.checks_run = True
        self.now = NOW
        self.writes = 0
        self.events: list[str] = []

    def tune(
        self,
        version: str | None,
        *,
        name: str = "tickets",
        rank: int = 16,
        spec: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Makes the fine-tune, or gives it this adapter."""
        builder = a_finetune()
        for path, value in (spec or {}).items():
            builder = builder.with_spec(path, value)
        adapter = AdapterRef(version=version, uri=uri(version), run_id="1" * 10, rank=rank) if version else None
        generation = builder.manifest["metadata"]["generation"]
        status = LoraFineTuneStatus(phase="Running", adapter=adapter, observed_generation=generation)
        metadata = {"name": name, "labels": dict(labels or {})}
        self.finetunes[name] = builder.with_metadata(**metadata).with_status(status).object()

    def edit(self, **spec: Any) -> None:
        """Edits the spec."""
        self.manifest["spec"] |= spec
        self.manifest["metadata"]["generation"] += 1

    @property
    def object(self) -> DeploymentObject:
        """The parsed object."""
        return observed.deployment(self.manifest)

    @property
    def status(self) -> AdapterDeploymentStatus:
        """Its status."""
        return self.object.status

    @property
    def table(self) -> RoutingTable:
        """The table in the ConfigMap."""
        text = self.children[Ref(Kind.CONFIG_MAP, "support", "tickets-routes")]["data"][TABLE_KEY]
        return RoutingTable.model_validate_json(text)

    def condition(self, kind: str) -> tuple[str, str, str] | None:
        """Status, reason and message of a condition."""
        for condition in self.status.conditions:
            if condition.type == kind:
                return str(condition.status), condition.reason, condition.message
        return None

    def plan(self) -> Plan[AdapterDeploymentStatus]:
        """The plan of now."""
        return plan_deployment.plan(self.object, self._observed(), SETTINGS, self.now)

    def reconcile(self) -> bool:
        """Plans and applies once; whether anything was written."""
        plan = self.plan()
        for action in plan.actions:
            self._apply(action)
        news = plan.status is not None and plan.status != self.status
        if plan.status is not None and news:
            self.manifest["status"] = plan.status.dump()
            self.events += [event.message for event in plan.events]
        self.now += timedelta(seconds=1)
        return bool(plan.actions) or news

    def let_pods_follow(self) -> None:
        """The Deployment controller makes the pods, and each does what the table says."""
        load = self.children.get(Ref(Kind.DEPLOYMENT, "support", "tickets"))
        wanted = load["spec"]["replicas"] if load else 0
        self.pods = self.pods[:wanted] + [SimPod(f"tickets-{number}") for number in range(len(self.pods), wanted)]
        self.let_checks_run()
        if load is not None:
            generation = load["metadata"]["generation"]
            load["status"] = {"observedGeneration": generation, "updatedReplicas": wanted, "replicas": wanted}
            table = self.table
            for pod in self.pods:
                if not pod.is_lost:
                    pod.follow(table, self.refused)

    def check(self) -> None:
        """Passes until the versions that are wanted have been checked and are in the table, if they passed."""
        self.reconcile()
        self.let_checks_run()
        self.reconcile()

    def let_checks_run(self) -> None:
        """The Jobs that check adapters end with their verdicts."""
        for ref, job in self.children.items():
            if ref.kind is not Kind.JOB or not self.checks_run or job.get("status"):
                continue
            options = job["spec"]["template"]["spec"]["containers"][0]["args"]
            version = options[options.index("--version") + 1]
            self.checked.append(version)
            at = self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
            job["status"] = {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": at}]}
            verdict = self.verdicts.get(version, Verdict(version=version))
            message = verdict.model_dump_json(by_alias=True) if verdict is not None else ""
            ended = {"terminated": {"exitCode": 0 if verdict is not None else 137, "message": message}}
            owner = {"kind": "Job", "name": ref.name, "uid": job["metadata"]["uid"], "controller": True}
            metadata = {"name": f"{ref.name}-x", "uid": "u", "resourceVersion": "1", "ownerReferences": [owner]}
            status = {"phase": "Succeeded", "containerStatuses": [{"name": "preflight", "state": ended}]}
            self.check_pods[ref] = {"metadata": metadata, "status": status}

    def settle(self, limit: int = 40) -> None:
        """Passes and pods take turns until neither changes anything."""
        for _ in range(limit):
            before = (copy.deepcopy(self.pods), copy.deepcopy(self.children))
            wrote = self.reconcile()
            self.let_pods_follow()
            if not wrote and before == (self.pods, self.children):
                return
        raise AssertionError(f"no rest after {limit} passes: {self.condition('Ready')}")

    def _observed(self) -> ObservedDeployment:
        def child(kind: Kind, name: str) -> Manifest | None:
            return self.children.get(Ref(kind, "support", name))

        jobs = [job for ref, job in self.children.items() if ref.kind is Kind.JOB]
        pods = tuple(pod.observed() for pod in self.pods)
        base = child(Kind.CONFIG_MAP, "tickets-base")
        base_map = observed_deployment.base_map(base) if base else None
        served = observed_deployment.served_base(pods)
        load, service = child(Kind.DEPLOYMENT, "tickets"), child(Kind.SERVICE, "tickets")
        routes = child(Kind.CONFIG_MAP, "tickets-routes")
        return ObservedDeployment(
            workload=observed_deployment.workload(load) if load else None,
            service=observed_deployment.child(service) if service else None,
            routes=observed_deployment.routes_map(routes) if routes else None,
            pods=pods,
            finetunes=self.finetunes,
            base=base_map,
            card="Y2FyZA==" if served is not None and (base_map is None or base_map.digest != served) else None,
            checks=observed_deployment.checks(jobs, list(self.check_pods.values())),
            refused=self.refusal,
        )

    def _apply(self, action: Create | Patch | Delete) -> None:
        self.writes += 1
        match action:
            case Create(ref, manifest):
                assert ref not in self.children, ref
                made = copy.deepcopy(manifest)
                uid = f"uid-{ref.kind}-{self.writes}" if ref.kind is Kind.JOB else f"uid-{ref.kind}"
                made["metadata"] |= {"uid": uid, "resourceVersion": "1", "generation": 1}
                self.children[ref] = made
            case Patch(ref, patch, _, _) if ref.kind is Kind.POD:
                (pod,) = [pod for pod in self.pods if pod.name == ref.name]
                pod.annotation = patch["metadata"]["annotations"][naming.TABLE_ANNOTATION]
            case Patch(ref, patch, uid, version):
                meta = self.children[ref]["metadata"]
                assert uid in (None, meta["uid"])
                assert version in (None, meta["resourceVersion"])
                patched = merged(self.children[ref], patch)
                assert patched != self.children[ref], "a patch that changes nothing"
                patched["metadata"]["resourceVersion"] = str(int(meta["resourceVersion"]) + 1)
                patched["metadata"]["generation"] += 1
                self.children[ref] = patched
            case Delete(ref, _):
                del self.children[ref]
                self.check_pods.pop(ref, None)


def merged(live: Manifest, patch: Manifest) -> Manifest:
    """RFC 7386."""
    result = copy.deepcopy(live)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = merged(result.get(key) or {}, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


TRUE, FALSE = str(ConditionStatus.TRUE), str(ConditionStatus.FALSE)

"""The demo's story: install, fine-tune and serve (act one), other data under load (act two)."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from demo import asking, example, ground, store, trouble, view
from demo.kubectl import Object, TimedOut, condition, is_true
from demo.result import Result

ACT_TIMEOUT_S = 1800.0
LOOK_EVERY_S = 2.0
REST_S = 5.0
"""The client rests for so long between two questions while the second training goes on, which shares its cores."""

ANSWERS_OF_SECOND = 4
"""Answers of the new version after which act two ends."""

SERVER_CPU_ENV = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
"""vLLM beside a training on two cores: one GiB of cache, and one thread, as two wait for each other whenever the
training holds a core (0.3 tokens/s). Nothing is compiled, as its image has no C++ compiler, and its worker stays in the
engine's process, as workers of their own share more memory than a pod's /dev/shm has."""


class StoryError(Exception):
    """Something ended otherwise than the story wants."""


@dataclass(frozen=True, slots=True)
class FirstAct:
    """What act one leaves: the version that is served and its scores."""

    version: str
    before: float
    after: float


def install(where: ground.Ground) -> None:
    """The CRDs and the operator, by the chart."""
    where.kubectl.apply(*store.crds())
    system = dataclasses.replace(where.kubectl, namespace=ground.SYSTEM)
    if system.get("namespace", ground.SYSTEM) is None:
        system.apply(store.namespace(ground.SYSTEM))
    place = ["--kube-context", where.kubectl.context] if where.kubectl.context else []
    values = {
        "images": {
            "operator": where.images.operator,
            "trainer": where.images.trainer,
            **({"server": where.images.server} if where.images.server else {}),
        },
        "server": {"cpuEnv": SERVER_CPU_ENV},
    }
    path = ground.BUILD / "demo" / "values.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    command = [
        str(where.helm),
        *place,
        "upgrade",
        "--install",
        "loraline",
        str(ground.CHART),
        "--namespace",
        ground.SYSTEM,
    ]
    options = ["--values", str(path), "--skip-crds", "--wait", "--timeout", "3m"]
    try:
        ground.run([*command, *options], where.kubectl.environment())
    except ground.GroundError as error:
        why = trouble.in_namespace(system) or f"see: kubectl -n {ground.SYSTEM} logs deployment/loraline-operator"
        raise StoryError(f"the operator does not run: {why}") from error


def apply(where: ground.Ground, folder: Path, place: example.Place) -> Path:
    """Applies an example; what was applied stays beside demo.json for the user to look at."""
    objects = example.manifests(where.kubectl, folder, place)
    path = ground.BUILD / "demo" / f"{folder.name}.yaml"
    path.write_text(yaml.safe_dump_all(objects, sort_keys=False, width=120), encoding="utf-8")
    where.kubectl.apply(*objects)
    return path


def first_act(where: ground.Ground, place: example.Place) -> FirstAct:
    """From the manifest to the first answer."""
    view.heading("Act one: a fine-tune, and a deployment that waits for it")
    view.say(f"$ kubectl apply --server-side -f {apply(where, example.FIRST, place).relative_to(ground.ROOT)}")
    with view.Watch() as watch:
        finetune = watch_until_served(where, watch, not_version=None)
    before, after = exact_match(finetune)
    version = finetune["status"]["adapter"]["version"]
    show_scores(finetune)
    show_adapter(where, version)
    show_answers(where)
    return FirstAct(version, before, after)


def second_act(where: ground.Ground, place: example.Place, first: FirstAct, begin: float) -> Result:
    """Other data under the same recipe, while a client keeps asking."""
    view.heading("Act two: other data, while a client keeps asking")
    messages = [question.message for question in example.questions(example.SECOND)]
    with (
        asking.Asking(where.kubectl, service_url(), example.ROUTE, messages, rest_s=REST_S) as client,
        view.Watch() as watch,
    ):
        wait(lambda: client.answers or None, "the client's first answer")
        view.say(f"$ kubectl apply --server-side -f {apply(where, example.SECOND, place).relative_to(ground.ROOT)}")

        def note() -> str:
            served = ", ".join(f"{count} by {version}" for version, count in client.versions().items())
            lost = sum(answer.status != 200 for answer in client.answers)
            return f"{len(client.answers)} answers ({served}), {lost} failed"

        def hurry(finetune: Object | None) -> None:
            if view.progress_of(finetune).get("stage") in ("Publishing", "Finished"):
                client.hurry(2)

        finetune = watch_until_served(where, watch, not_version=first.version, note=note, each=hurry)
        second = finetune["status"]["adapter"]["version"]
        wait(lambda: client.versions()[second] >= ANSWERS_OF_SECOND or None, f"{ANSWERS_OF_SECOND} answers by {second}")
    show_scores(finetune)
    return Result(
        exact_match_before=first.before,
        exact_match_after=first.after,
        first_version=first.version,
        second_version=second,
        requests=len(client.answers),
        failed_requests=sum(answer.status != 200 for answer in client.answers),
        mixed_answers=mixed(client.answers, first.version, second),
        seconds=round(time.monotonic() - begin, 1),
    )


def mixed(answers: list[asking.Answer], first: str, second: str) -> int:
    """Answers that do not have the form of the version that they name: the second's tickets have a status."""
    has_status = {first: False, second: True}
    good = [answer for answer in answers if answer.status == 200]
    return sum(has_status.get(answer.version or "") is not example.has_status(answer.text) for answer in good)


def watch_until_served(
    where: ground.Ground,
    watch: view.Watch,
    *,
    not_version: str | None,
    note: Callable[[], str] = lambda: "",
    each: Callable[[Object | None], None] = lambda finetune: None,
) -> Object:
    """The fine-tune, once its newest adapter is another than `not_version` and the deployment serves it.

    Raises:
        StoryError: the run failed, or nothing was served in time.
    """
    end = time.monotonic() + ACT_TIMEOUT_S
    while time.monotonic() < end:
        finetune = where.kubectl.get("lorafinetune", example.FINETUNE)
        deployment = where.kubectl.get("adapterdeployment", example.DEPLOYMENT)
        watch.show(finetune, deployment, note())
        each(finetune)
        failed = condition(finetune, "Failed")
        if failed and failed["status"] == "True":
            raise StoryError(f"the run failed ({failed['reason']}): {failed['message']}")
        if finetune and is_served(finetune, deployment, not_version):
            return finetune
        time.sleep(LOOK_EVERY_S)
    raise StoryError(f"nothing new was served within {ACT_TIMEOUT_S:.0f} s; see: kubectl describe lft,adep")


def is_served(finetune: Object, deployment: Object | None, not_version: str | None) -> bool:
    """Whether the fine-tune's newest adapter answers under the route."""
    version = finetune.get("status", {}).get("adapter", {}).get("version")
    routes = {route["name"]: route.get("version") for route in (deployment or {}).get("status", {}).get("routes", ())}
    has_new = version is not None and version != not_version and is_true(finetune, "Complete")
    return has_new and routes.get(example.ROUTE) == version and is_true(deployment, "Ready")


def wait(look: Callable[[], object], what: str) -> None:
    """Waits for a truth of the client's."""
    end = time.monotonic() + 300
    while look() is None:
        if time.monotonic() > end:
            raise TimedOut(f"waited 300 s for {what}")
        time.sleep(0.2)


def exact_match(finetune: Object) -> tuple[float, float]:
    """Held-out exact match before and after."""
    metrics = {metric["name"]: metric for metric in finetune["status"]["evaluation"]}
    return float(metrics["exactMatch"]["before"]), float(metrics["exactMatch"]["after"])


def service_url() -> str:
    """Where the deployment answers, inside the cluster."""
    return f"http://{example.DEPLOYMENT}.{ground.NAMESPACE}.svc/v1/chat/completions"


def show_scores(finetune: Object) -> None:
    """The held-out scores before and after."""
    metrics = finetune["status"]["evaluation"]
    rows = [(metric["name"], metric.get("before", ""), metric.get("after", "")) for metric in metrics]
    view.table("On held-out messages", ("metric", "before", "after"), rows)


def show_adapter(where: ground.Ground, version: str) -> None:
    """The adapter's files in S3."""
    prefix = f"tickets/adapters/{version}/"
    files = store.listing(where.kubectl, store.ADAPTER_BUCKET, prefix)
    rows = [(key.removeprefix(prefix), f"{size:,}") for key, size in files]
    view.table(f"s3://{store.ADAPTER_BUCKET}/{prefix}", ("file", "bytes"), rows)


def show_answers(where: ground.Ground) -> None:
    """One question to the base model and to the route, through the cluster's Service."""
    question = example.questions(example.FIRST)[0].message
    view.say(f"\nasked through {service_url()}:\n  {question}")
    deployment = where.kubectl.get("adapterdeployment", example.DEPLOYMENT) or {}
    for model in (base_name(deployment), example.ROUTE):
        (answer,) = asking.ask_once(where.kubectl, service_url(), model, [question])
        if answer.status != 200:
            raise StoryError(f"model {model} answered with status {answer.status}: {answer.error}")
        view.say(f"{model}:\n  {json.dumps(answer.text, ensure_ascii=False)}")


def base_name(deployment: Object) -> str:
    """The model name of the base: org/name of hf://, else the last part of the path."""
    uri = str(deployment["spec"]["baseModel"]["uri"])
    return uri.removeprefix("hf://") if uri.startswith("hf://") else uri.rstrip("/").rpartition("/")[2]

"""`python -m demo`: plays the demo and leaves its cluster up; `python -m demo down` removes it.

python -m demo [--context NAME --registry HOST/PATH [--gpus N] [--upload-model]]
python -m demo down [--context NAME]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from demo import example, ground, store, story, view
from demo.kubectl import KubectlError, TimedOut
from demo.result import Result

RESULT = ground.BUILD / "demo.json"


def main() -> int:
    """Exit code 0: every promise was kept."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("action", nargs="?", choices=("up", "down"), default="up")
    parser.add_argument("--context", help="a context of your kubeconfig, instead of the built-in cluster")
    parser.add_argument("--registry", help="where that cluster pulls images from, as in host/path")
    parser.add_argument(
        "--gpus", type=int, choices=(0, 1), default=1, help="GPUs of a pod on that cluster (default: 1)"
    )
    parser.add_argument(
        "--upload-model",
        action="store_true",
        help="put the base model into the demo's S3, for a cluster that does not reach the Hugging Face Hub",
    )
    args = parser.parse_args()
    if args.action == "up" and bool(args.context) != bool(args.registry):
        parser.error("--context and --registry belong together: the cluster has to pull the images from somewhere")
    try:
        if args.action == "down":
            return down(args.context)
        if not args.context:
            return up(lambda: ground.built_in(cluster_folder()), gpus=0, is_model_uploaded=True)
        return up(
            lambda: ground.of_context(args.context, args.registry, args.gpus),
            gpus=args.gpus,
            is_model_uploaded=args.upload_model,
        )
    except (ground.GroundError, KubectlError, TimedOut, story.StoryError) as error:
        view.say(f"\nThe demo stopped: {error}")
        return 1


def cluster_folder() -> Path:
    """Where the built-in cluster keeps its data."""
    return ground.cache_folder() / "demo"


def up(raise_ground: Callable[[], ground.Ground], *, gpus: int, is_model_uploaded: bool) -> int:
    """The whole demo."""
    view.heading("The ground: images and a cluster")
    where = raise_ground()
    result = play(where, furnish(where, gpus=gpus, is_model_uploaded=is_model_uploaded))
    return conclude(where, result)


def furnish(where: ground.Ground, *, gpus: int, is_model_uploaded: bool) -> example.Place:
    """The operator, an S3 and the base model; where they are."""
    view.heading("Installing the operator, an S3, and the base model")
    story.install(where)
    store.furnish(where)
    if not is_model_uploaded:
        return example.Place(f"hf://HuggingFaceTB/{store.MODEL}", store.S3_ENDPOINT, gpus)
    store.upload(where.kubectl, ground.model_folder(), store.MODEL_BUCKET, store.MODEL)
    return example.Place(f"s3://{store.MODEL_BUCKET}/{store.MODEL}", store.S3_ENDPOINT, gpus)


def play(where: ground.Ground, place: example.Place) -> Result:
    """Both acts; the numbers are written."""
    begin = time.monotonic()
    first = story.first_act(where, place)
    result = story.second_act(where, place, first, begin)
    result.write(RESULT)
    return result


def conclude(where: ground.Ground, result: Result) -> int:
    """The final table, and what to type next."""
    view.table(
        f"The demo in numbers ({RESULT.relative_to(ground.ROOT)})",
        ("what", "value"),
        [
            ("held-out exact match", f"{result.exact_match_before:.0%} before, {result.exact_match_after:.0%} after"),
            ("versions", f"{result.first_version}, then {result.second_version}"),
            ("requests while the second took over", f"{result.requests}, of which {result.failed_requests} failed"),
            ("answers of another version than they named", str(result.mixed_answers)),
            ("time of both acts", f"{result.seconds:.0f} s"),
        ],
    )
    broken = result.broken_promises()
    for sentence in broken:
        view.say(f"Promise broken: {sentence}")
    view.say("\nThe cluster is up. Three commands worth typing:")
    for line in commands(where):
        view.say(f"  {line}")
    view.say("`make demo-down` removes it." if where.is_built_in else "`python -m demo down` removes what was made.")
    return 1 if broken else 0


def commands(where: ground.Ground) -> list[str]:
    """What a user may want to type next."""
    kubectl = where.kubectl
    if kubectl.context:
        setting = f"alias kubectl='kubectl --context {kubectl.context} --namespace {ground.NAMESPACE}'"
    else:
        kubectl.run("config", "set-context", "--current", f"--namespace={ground.NAMESPACE}")
        setting = f"export KUBECONFIG={kubectl.kubeconfig} PATH={kubectl.program.parent}:$PATH"
    return [
        setting,
        "kubectl get loraline",
        f"kubectl describe lft {example.FINETUNE}",
        "kubectl apply --server-side --force-conflicts -f build/demo/tickets.yaml  # the first data: nothing trains",
    ]


def down(context: str | None) -> int:
    """Removes what the demo made."""
    if context is None:
        ground.remove(cluster_folder())
        return 0
    store.forget_namespace(ground.users_kubectl(context))
    uninstall = ["uninstall", "loraline", "--namespace", ground.SYSTEM, "--ignore-not-found", "--wait"]
    ground.run([str(ground.helm()), "--kube-context", context, *uninstall])
    view.say("The CRDs stay, as they hold every team's objects: kubectl delete crd lorafinetunes.loraline.dev ...")
    return 0


if __name__ == "__main__":
    sys.exit(main())

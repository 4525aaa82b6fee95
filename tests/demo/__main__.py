"""`python -m demo`: plays the demo and leaves its cluster up; `python -m demo down` removes it.

python -m demo [--context NAME --registry HOST/PATH [--gpus 0|1] [--upload-model]]
python -m demo down [--context NAME]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from demo import example, ground, guest, store, story, view
from demo.kubectl import KubectlError, TimedOut
from demo.result import Result

RESULT = ground.BUILD / "demo.json"
HUB = "https://huggingface.co"
HALF = (
    "a cluster has to pull the images from somewhere: give both, as in `make demo CONTEXT=name REGISTRY=host/path`, "
    "or neither for the built-in cluster"
)


def main() -> int:
    """Exit code 0: every promise was kept."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("action", nargs="?", choices=("up", "down"), default="up")
    parser.add_argument("--context", help="a context of your kubeconfig, instead of the built-in cluster")
    parser.add_argument("--registry", help="where that cluster pulls images from, as in host/path")
    parser.add_argument(
        "--gpus", type=int, choices=(0, 1), help="GPUs of a pod on that cluster (default: 1 where a node offers any)"
    )
    parser.add_argument(
        "--upload-model",
        action="store_true",
        help="put the base model into the demo's S3 (default: where the cluster does not reach the Hugging Face Hub)",
    )
    args = parser.parse_args()
    try:
        return act(args)
    except (ground.GroundError, KubectlError, TimedOut, story.StoryError) as error:
        view.say(f"\nThe demo stopped: {error}")
        return 1


def act(args: argparse.Namespace) -> int:
    """What the command line asks for.

    Raises:
        GroundError: it gives half of what belongs together.
    """
    if args.action == "down":
        return down(args.context)
    if bool(args.context) != bool(args.registry):
        raise ground.GroundError(HALF)
    if not args.context:
        return up(lambda: ground.built_in(cluster_folder()), gpus=0, is_model_uploaded=True)
    return up_as_guest(args.context, args.registry, args.gpus, is_model_uploaded=args.upload_model or None)


def cluster_folder() -> Path:
    """Where the built-in cluster keeps its data."""
    return ground.cache_folder() / "demo"


def up_as_guest(context: str, registry: str, gpus: int | None, *, is_model_uploaded: bool | None) -> int:
    """The whole demo on a cluster of the user's."""
    kubectl = guest.arrive(context)
    count = guest.gpus(kubectl) if gpus is None else gpus
    return up(lambda: ground.of_context(kubectl, registry, count), gpus=count, is_model_uploaded=is_model_uploaded)


def up(raise_ground: Callable[[], ground.Ground], *, gpus: int, is_model_uploaded: bool | None) -> int:
    """The whole demo; the base model is uploaded as told, or else where the cluster does not reach the hub."""
    view.heading("The ground: images and a cluster")
    where = raise_ground()
    result = play(where, furnish(where, gpus=gpus, is_model_uploaded=is_model_uploaded))
    return conclude(where, result)


def furnish(where: ground.Ground, *, gpus: int, is_model_uploaded: bool | None) -> example.Place:
    """The operator, an S3 and the base model; where they are."""
    view.heading("Installing the operator, an S3, and the base model")
    story.install(where)
    store.furnish(where)
    if is_model_uploaded is None:
        is_model_uploaded = not store.reaches(where.kubectl, HUB)
        if is_model_uploaded:
            view.say(f"The cluster does not reach {HUB}: the base model goes into the demo's S3")
    if not is_model_uploaded:
        return example.Place(f"hf://HuggingFaceTB/{ground.MODEL}", store.S3_ENDPOINT, gpus)
    store.upload(where.kubectl, ground.model_folder(), store.MODEL_BUCKET, ground.MODEL)
    return example.Place(f"s3://{store.MODEL_BUCKET}/{ground.MODEL}", store.S3_ENDPOINT, gpus)


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
    context = f" CONTEXT={where.kubectl.context}" if where.kubectl.context else ""
    view.say(f"`make demo-down{context}` removes {'it' if where.is_built_in else 'all that the demo made'}.")
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
    guest.leave(context)
    return 0


if __name__ == "__main__":
    sys.exit(main())

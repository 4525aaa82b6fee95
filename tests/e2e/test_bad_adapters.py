"""Adapters that must never be served: each is refused with its reason, and the healthy route beside it serves on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import example, store
from demo.kubectl import Object, condition
from e2e.stage import Stage

FORGE = Path(store.__file__).parent / "inside" / "forge.py"

FORGED = {
    "nan": ("AdapterInvalid", "NaN or infinite"),
    "truncated": ("AdapterInvalid", "publish it again"),
    "rank": ("RankExceedsServer", "rank 32"),
    "base": ("BaseModelMismatch", "digest"),
    "digest": ("DigestMismatch", "sha256"),
}


@pytest.fixture(scope="module")
def routes(stage: Stage) -> Iterator[dict[str, Object]]:
    """The status of the routes once every forged adapter has been judged; the routes are removed afterwards."""
    good = stage.deployment()
    version = stage.finetune(example.FINETUNE)["status"]["adapter"]["version"]
    source = f"tickets/adapters/{version}"
    adapters = list(good["spec"]["adapters"])
    for kind in FORGED:
        script = stage.kubectl.python(store.CLIENT, FORGE, store.ADAPTER_BUCKET, source, f"forged/{kind}", kind)
        adapters.append({"name": f"forged-{kind}", "uri": stage.kubectl.run(*script).strip()})
    adapters.append({"name": "forged-absent", "uri": "s3://adapters/forged/adapters/000000000000"})
    put_adapters(stage, adapters)

    def statuses() -> dict[str, Object]:
        found = stage.deployment()["status"]["routes"]
        return {route["name"]: route for route in found if route["name"].startswith("forged-")}

    expected = {f"forged-{kind}": reason for kind, (reason, _) in FORGED.items()}
    try:
        stage.wait(
            "a verdict on every forged adapter",
            lambda: {name: statuses().get(name, {}).get("reason") for name in expected} == expected,
            timeout_s=180,
        )
        yield statuses()
    finally:
        put_adapters(stage, good["spec"]["adapters"])


def put_adapters(stage: Stage, adapters: list[Object]) -> None:
    """Sets spec.adapters of the demo's deployment."""
    there = stage.deployment()
    stage.kubectl.apply(
        {
            "apiVersion": there["apiVersion"],
            "kind": there["kind"],
            "metadata": {"name": example.DEPLOYMENT},
            "spec": there["spec"] | {"adapters": adapters},
        }
    )


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_adapter_is_refused_with_its_reason(routes: dict[str, Object], kind: str) -> None:
    reason, words = FORGED[kind]
    route = routes[f"forged-{kind}"]
    assert route["reason"] == reason
    assert words in route["message"]
    assert not route.get("version")


def test_no_serving_pod_was_asked_to_hold_a_forged_adapter(stage: Stage, routes: dict[str, Object]) -> None:
    held = {version["route"] for pod in stage.deployment()["status"]["pods"] for version in pod["versions"]}
    assert held == {example.ROUTE}


def test_the_deployment_says_that_something_is_not_served(stage: Stage, routes: dict[str, Object]) -> None:
    assert (condition(stage.deployment(), "Degraded") or {})["status"] == "True"


def test_the_healthy_route_serves_on(stage: Stage, routes: dict[str, Object]) -> None:
    stage.assert_still_serving()

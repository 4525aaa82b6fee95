"""Bad fine-tunes, all applied at once: each ends in a sentence with the value, the limit and the way out.

Each runs in a real pod; the healthy deployment beside them serves on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from demo import store
from demo.kubectl import KubectlError, Object, condition, wait_for
from e2e import stage as builders
from e2e.stage import Stage


class Bad(NamedTuple):
    """A fine-tune, what it trains on, and what has to be said of it."""

    finetune: Callable[[str], Object]
    data: str | None
    reason: str
    said: tuple[str, ...]


def tiny(**changes: Any) -> Callable[[str], Object]:
    """The tiny fine-tune with these changes, under a name that is given later."""
    return lambda name: builders.finetune(name, **changes)


def output(**changes: Any) -> Callable[[str], Object]:
    """The tiny fine-tune with another output."""
    there = {"uri": "s3://adapters/bad", "endpoint": store.S3_ENDPOINT, "secretRef": {"name": store.SECRET}}
    return tiny(output=there | changes)


GATES = {"metrics": ["exactMatch"], "gates": [{"metric": "exactMatch", "min": 0.9}], "maxNewTokens": 4}
BAD = {
    "data-empty": Bad(tiny(), "\n", "DatasetInvalid", ("0 examples", "at least 1")),
    "data-columns": Bad(
        tiny(), '{"question": "a", "reply": "b"}\n', "DatasetInvalid", ("question", "reply", "messages")
    ),
    "data-not-json": Bad(
        tiny(), '{"prompt": "a", "completion": "b"}\n' * 2 + "{broken\n", "DatasetInvalid", ("line 3",)
    ),
    "data-no-answers": Bad(tiny(), '{"prompt": "a", "completion": ""}\n' * 4, "DatasetInvalid", ("empty completions",)),
    "data-absent": Bad(tiny(), None, "DatasetNotFound", ("data-absent", "create it")),
    "base-absent": Bad(
        tiny(baseModel={"uri": "s3://models/nothing"}),
        builders.GOOD_DATA,
        "BaseModelNotFound",
        ("s3://models/nothing",),
    ),
    "wrong-keys": Bad(output(secretRef={"name": "wrong-keys"}), builders.GOOD_DATA, "AccessDenied", ("credentials",)),
    "no-bucket": Bad(output(uri="s3://no-such-bucket/x"), builders.GOOD_DATA, "BucketNotFound", ("no-such-bucket",)),
    "endpoint-down": Bad(
        output(endpoint="http://s3.loraline-demo.svc:9"),
        builders.GOOD_DATA,
        "StorageUnavailable",
        ("http://s3.loraline-demo.svc:9", "tried"),
    ),
    "gate-missed": Bad(tiny(evaluation=GATES), builders.GOOD_DATA, "EvalBelowThreshold", ("exactMatch", "0.9")),
}


@pytest.fixture(scope="module")
def ended(stage: Stage, request: pytest.FixtureRequest) -> dict[str, Object]:
    """All bad fine-tunes after their end; meanwhile a good one trains, and the operator's pod is deleted."""
    stage.kubectl.apply(store.secret("wrong-keys", ("nobody", "nothing")))
    for name, bad in BAD.items():
        if bad.data is not None:
            stage.kubectl.apply(builders.data(name, bad.data))
        stage.kubectl.apply(bad.finetune(name))
    request.getfixturevalue("untouched")

    def look(name: str) -> Object | None:
        found = stage.finetune(name)
        ready = condition(found, "Ready") or {}
        return found if ready.get("reason") == BAD[name].reason or condition(found, "Stalled") else None

    return {name: wait_for(f"a verdict on {name}", functools.partial(look, name), timeout_s=600) for name in BAD}


@pytest.mark.parametrize("name", BAD)
def test_the_condition_says_what_is_wrong_and_how_to_mend_it(ended: dict[str, Object], name: str) -> None:
    ready = condition(ended[name], "Ready") or {}
    assert (ready["status"], ready["reason"]) == ("False", BAD[name].reason), ready["message"]
    for words in BAD[name].said:
        assert words in ready["message"]


@pytest.mark.parametrize("name", BAD)
def test_nothing_is_published(ended: dict[str, Object], name: str) -> None:
    assert "adapter" not in ended[name]["status"]


def test_kubectl_describe_shows_the_sentence(stage: Stage, ended: dict[str, Object]) -> None:
    assert "line 3" in stage.kubectl.run("describe", "lft", "data-not-json")


def test_a_missing_configmap_is_found_when_it_comes(stage: Stage, ended: dict[str, Object]) -> None:
    stage.kubectl.apply(builders.data("data-absent", builders.GOOD_DATA))
    assert (condition(stage.ended("data-absent"), "Complete") or {})["status"] == "True"


REFUSED = {
    "an unknown field": ({"adapter": {"rnk": 8}}, "rnk"),
    "rank 0": ({"adapter": {"rank": 0}}, "must be from 1 to 256"),
    "rank 300": ({"adapter": {"rank": 300}}, "must be from 1 to 256"),
    "a data set of no known place": ({"dataset": {"train": {"uri": "ftp://x/y"}}}, "must look like"),
}


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED)
def test_kubectl_apply_itself_refuses(stage: Stage, changes: Object, said: str) -> None:
    with pytest.raises(KubectlError, match=said):
        stage.kubectl.apply(builders.finetune("refused", **changes))


def test_the_healthy_deployment_serves_on(stage: Stage, ended: dict[str, Object]) -> None:
    stage.assert_still_serving()

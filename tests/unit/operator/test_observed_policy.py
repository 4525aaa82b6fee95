"""The policy in its ConfigMap: what is read, and how a broken one is told."""

from __future__ import annotations

import pytest

from loraline_api.policy import ALLOW_ALL
from loraline_operator import observed_policy
from loraline_operator.actions import Kind, Manifest, Ref

REF = Ref(Kind.CONFIG_MAP, "loraline-system", "loraline-policy")


def a_map(text: str, key: str = "policy.yaml") -> Manifest:
    """The ConfigMap with a policy in that key."""
    return {"metadata": {"name": REF.name, "namespace": REF.namespace, "resourceVersion": "7"}, "data": {key: text}}


def test_no_configmap_and_an_empty_policy_allow_all() -> None:
    assert observed_policy.policy(REF, None) == ALLOW_ALL
    assert observed_policy.policy(REF, a_map("")) == ALLOW_ALL


WHERE = "ConfigMap loraline-system/loraline-policy"


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        pytest.param(
            a_map("limits: {rank: many}"),
            f"{WHERE}, policy.yaml: limits.rank is 'many': Input should be a valid integer, unable to parse string as "
            "an integer; mend it",
            id="a value of another type",
        ),
        pytest.param(
            a_map("limits: {rank: 0}"),
            f"{WHERE}, policy.yaml: limits.rank is 0: Input should be greater than or equal to 1; mend it",
            id="a value out of bounds",
        ),
        pytest.param(
            a_map("limits: {ranks: 64}"),
            f"{WHERE}, policy.yaml: limits.ranks is no field of a policy; mend it",
            id="a field that is none",
        ),
        pytest.param(
            a_map("gpus: {L4: {bf16Tflops: 121}}"),
            f"{WHERE}, policy.yaml: gpus.L4.memoryGiB is missing; mend it",
            id="a card without its memory",
        ),
        pytest.param(
            a_map("limits: {activeDeadlineSeconds: 60}\ndefaults: {activeDeadlineSeconds: 90}"),
            f"{WHERE}, policy.yaml: defaults.activeDeadlineSeconds is 90 and limits.activeDeadlineSeconds is 60: no "
            "fine-tune could use the default; lower it or raise the limit; mend it",
            id="a default over its limit",
        ),
        pytest.param(
            a_map(
                "limits: {activeDeadlineSeconds: 60}\n"
                "namespaces: [{names: [team-a], defaults: {activeDeadlineSeconds: 90}}]"
            ),
            f"{WHERE}, policy.yaml: namespaces[team-a]: defaults.activeDeadlineSeconds is 90 and "
            "limits.activeDeadlineSeconds is 60: no fine-tune could use the default; lower it or raise the limit; "
            "mend it",
            id="a default of a namespace over the limit of all",
        ),
        pytest.param(
            a_map("limits: {rank: 64"),
            f"{WHERE}, policy.yaml is no YAML: line 1, column 18: expected ',' or '}}', but got '<stream end>'; mend "
            "it",
            id="no YAML",
        ),
        pytest.param(
            a_map("- rank"),
            f"{WHERE}, policy.yaml: the document is ['rank']: Input should be a valid dictionary or instance of "
            "Policy; mend it",
            id="a list",
        ),
        pytest.param(
            a_map("limits: {}", key="policy.yml"),
            f"{WHERE} has no key policy.yaml (its keys: policy.yml); add it, or delete the ConfigMap to allow all",
            id="another key",
        ),
    ],
)
def test_a_broken_policy_is_told_by_object_field_value_and_remedy(manifest: Manifest, sentence: str) -> None:
    with pytest.raises(ValueError, match="loraline-policy") as caught:
        observed_policy.policy(REF, manifest)
    assert str(caught.value) == sentence

"""What the policy refuses, in which words, and what it fills in."""

from __future__ import annotations

from typing import Any

import pytest

from loraline_api import run
from loraline_api.deployment import AdapterDeploymentSpec
from loraline_api.policy import Policy
from loraline_operator import naming, plan_defaults, plan_policy
from unit.operator.builders import FineTuneBuilder, a_finetune


def a_policy(**document: Any) -> Policy:
    """The policy of a document as the ConfigMap holds it."""
    return Policy.model_validate(document)


LIMITED = a_policy(
    baseModels=["hf://org/*", "s3://models/*"],
    buckets=["data", "adapters", "shared/support/*"],
    limits={"rank": 64, "maxSeqLength": 4096, "activeDeadlineSeconds": 3600, "gpusPerFineTune": 1},
)


@pytest.mark.parametrize(
    ("finetune", "message"),
    [
        pytest.param(
            a_finetune().with_spec("baseModel.uri", "hf://other/model"),
            "spec.baseModel.uri is hf://other/model and the policy of namespace support allows hf://org/*, "
            "s3://models/*; use one of these, or ask the platform team",
            id="another base model",
        ),
        pytest.param(
            a_finetune().with_spec("output.uri", "s3://mine/x"),
            "spec.output.uri is s3://mine/x and the policy of namespace support allows the buckets data, adapters, "
            "shared/support/*; use one of these, or ask the platform team",
            id="another bucket for the adapter",
        ),
        pytest.param(
            a_finetune().with_spec("dataset.train.uri", "s3://mine/x"),
            "spec.dataset.train.uri is s3://mine/x and the policy of namespace support allows the buckets data, "
            "adapters, shared/support/*; use one of these, or ask the platform team",
            id="another bucket for the data",
        ),
        pytest.param(
            a_finetune().with_spec("dataset.eval", {"uri": "s3://shared/billing/eval.jsonl"}),
            "spec.dataset.eval.uri is s3://shared/billing/eval.jsonl and the policy of namespace support allows the "
            "buckets data, adapters, shared/support/*; use one of these, or ask the platform team",
            id="another prefix of a shared bucket",
        ),
        pytest.param(
            a_finetune().with_rank(128),
            "spec.adapter.rank is 128 and the policy of namespace support allows 64; lower it, or ask the platform "
            "team",
            id="too high a rank",
        ),
        pytest.param(
            a_finetune().with_spec("training.maxSeqLength", 8192),
            "spec.training.maxSeqLength is 8192 and the policy of namespace support allows 4096; lower it, or ask the "
            "platform team",
            id="too long sequences",
        ),
        pytest.param(
            a_finetune().with_spec("activeDeadlineSeconds", 7200),
            "spec.activeDeadlineSeconds is 7200 and the policy of namespace support allows 3600; lower it, or ask the "
            "platform team",
            id="too long a deadline",
        ),
        pytest.param(a_finetune(), None, id="all that is allowed"),
        pytest.param(
            a_finetune().with_spec("dataset.train.uri", "s3://shared/support/a.jsonl"), None, id="a prefix of its own"
        ),
        pytest.param(
            a_finetune().with_spec("dataset.train.uri", "https://x.test/a"), None, id="data that is not in S3"
        ),
        pytest.param(a_finetune().with_spec("baseModel.uri", "s3://models/own"), None, id="a model in its own bucket"),
    ],
)
def test_the_first_violation_is_said_with_value_limit_and_remedy(
    finetune: FineTuneBuilder, message: str | None
) -> None:
    spec = finetune.object().spec
    assert spec is not None
    assert plan_policy.finetune_violation(spec, "support", LIMITED) == message


def test_gpus_over_a_limit_are_refused_as_no_waiting_would_help() -> None:
    spec = a_finetune().object().spec
    assert spec is not None
    for limit in ("gpusPerFineTune", "gpus"):
        message = plan_policy.finetune_violation(spec, "support", a_policy(limits={limit: 0}))
        assert message == (
            "spec.compute asks for 1 GPU and the policy of namespace support allows 0; lower it, or ask the platform "
            "team"
        )


def test_the_first_entry_that_matches_a_namespace_holds_and_leaves_the_rest_as_at_the_top() -> None:
    policy = a_policy(
        limits={"rank": 64, "maxSeqLength": 4096},
        namespaces=[{"names": ["team-a"], "limits": {"rank": 128}}, {"names": ["team-*"], "limits": {"rank": None}}],
    )
    ranks = {name: policy.of(name).limits.rank for name in ("other", "team-a", "team-b")}
    assert ranks == {"other": 64, "team-a": 128, "team-b": None}
    assert policy.of("team-b").limits.max_seq_length == 4096


def test_no_policy_allows_all() -> None:
    spec = a_finetune().with_rank(256).with_spec("training.maxSeqLength", 1_000_000).object().spec
    assert spec is not None
    assert plan_policy.finetune_violation(spec, "support", a_policy()) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"replicas": 3},
            "spec.replicas is 3 and spec.compute.gpus is 1, which is 3 GPUs, and the policy of namespace support "
            "allows 2; lower spec.replicas, or ask the platform team",
            id="too many GPUs",
        ),
        pytest.param(
            {"adapters": [{"name": "a", "uri": "s3://mine/adapters/x"}]},
            "spec.adapters[a].uri is s3://mine/adapters/x and the policy of namespace support allows the buckets "
            "adapters; use one of these, or ask the platform team",
            id="an adapter of another bucket",
        ),
        pytest.param({"replicas": 2}, None, id="what is allowed"),
        pytest.param({"replicas": 9, "compute": {"gpus": 0}}, None, id="any number of pods without GPUs"),
    ],
)
def test_deployments_are_judged_by_models_buckets_and_gpus(changes: dict[str, Any], message: str | None) -> None:
    policy = a_policy(baseModels=["hf://org/*"], buckets=["adapters"], limits={"gpusPerDeployment": 2})
    spec = AdapterDeploymentSpec.model_validate({"baseModel": {"uri": "hf://org/model"}, **changes})
    assert plan_policy.deployment_violation(spec, "support", policy) == message


DEFAULTS = a_policy(
    defaults={
        "gpuType": "L4",
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "activeDeadlineSeconds": 600,
        "ttlSecondsAfterFinished": 60,
        "queueName": "team-queue",
    }
)


def test_defaults_fill_in_what_the_spec_leaves_open() -> None:
    spec = a_finetune().object().spec
    assert spec is not None
    filled = plan_defaults.with_defaults(spec, "support", DEFAULTS)
    assert filled.compute.gpu_type == "NVIDIA-L4"
    assert filled.compute.node_selector == {"pool": "gpu"}
    assert filled.compute.tolerations[0].key == "nvidia.com/gpu"
    assert (filled.active_deadline_seconds, filled.ttl_seconds_after_finished) == (600, 60)
    meta = plan_defaults.with_queue(a_finetune().object().meta, DEFAULTS)
    assert meta.labels[naming.KUEUE_QUEUE_LABEL] == "team-queue"


def test_defaults_leave_alone_what_the_spec_says() -> None:
    compute = {"gpuType": "NVIDIA-A10G", "nodeSelector": {"zone": "a"}, "tolerations": [{"key": "own"}]}
    builder = a_finetune().with_spec("compute", compute).with_spec("activeDeadlineSeconds", 5)
    spec = builder.with_spec("ttlSecondsAfterFinished", 6).object().spec
    assert spec is not None
    assert plan_defaults.with_defaults(spec, "support", DEFAULTS) == spec
    labelled = a_finetune().with_metadata(labels={naming.KUEUE_QUEUE_LABEL: "own"}).object().meta
    assert plan_defaults.with_queue(labelled, DEFAULTS) is labelled


def test_placement_of_gpu_pods_does_not_reach_fine_tunes_on_cpus() -> None:
    spec = a_finetune().with_spec("compute", {"gpus": 0}).object().spec
    assert spec is not None
    assert plan_defaults.with_defaults(spec, "support", DEFAULTS).compute == spec.compute


def test_defaults_change_neither_run_nor_settings() -> None:
    spec = a_finetune().object().spec
    assert spec is not None
    filled = plan_defaults.with_defaults(spec, "support", DEFAULTS)
    ids = {run.resolve("tickets", "support", item, data_digests={}).id for item in (spec, filled)}
    assert len(ids) == 1


def test_a_limit_of_the_deadline_is_the_deadline_of_those_that_name_none() -> None:
    spec = a_finetune().object().spec
    assert spec is not None
    policy = a_policy(limits={"activeDeadlineSeconds": 900})
    assert plan_defaults.with_defaults(spec, "support", policy).active_deadline_seconds == 900


def test_a_card_of_several_products_is_any_of_them_beside_the_affinity_of_the_spec() -> None:
    zone = {"key": "zone", "operator": "In", "values": ["a"]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [zone]}, {"matchFields": []}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}, "podAffinity": {"x": 1}}
    spec = a_finetune().with_spec("compute", {"gpuType": "A100-80", "affinity": affinity}).object().spec
    assert spec is not None
    placed = plan_defaults.with_defaults(spec, "support", a_policy()).compute
    card = {
        "key": "nvidia.com/gpu.product",
        "operator": "In",
        "values": ["NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-80GB-PCIe"],
    }
    assert placed.gpu_type is None
    assert placed.affinity == {
        "podAffinity": {"x": 1},
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [zone, card]},
                    {"matchFields": [], "matchExpressions": [card]},
                ]
            }
        },
    }


def test_a_card_with_a_node_selector_of_its_own_is_found_by_it() -> None:
    policy = a_policy(gpus={"L4": {"memoryGiB": 22.5, "bf16Tflops": 121, "nodeSelector": {"accelerator": "l4"}}})
    spec = a_finetune().with_spec("compute", {"gpuType": "L4", "nodeSelector": {"zone": "a"}}).object().spec
    assert spec is not None
    placed = plan_defaults.with_defaults(spec, "support", policy).compute
    assert (placed.gpu_type, placed.node_selector) == (None, {"zone": "a", "accelerator": "l4"})

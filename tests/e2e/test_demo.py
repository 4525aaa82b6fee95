"""What `make demo` promises, read from the numbers that it leaves, and the cluster at rest after it."""

from __future__ import annotations

import time

from demo import example
from demo.kubectl import condition, is_true
from e2e.stage import Stage


def test_the_adapter_learns_what_the_base_model_cannot(stage: Stage) -> None:
    assert stage.numbers["exactMatchBefore"] <= 0.2
    assert stage.numbers["exactMatchAfter"] >= 0.9


def test_no_request_is_lost_while_the_second_version_takes_over(stage: Stage) -> None:
    assert stage.numbers["firstVersion"] != stage.numbers["secondVersion"]
    assert stage.numbers["requests"] > 0
    assert stage.numbers["failedRequests"] == 0


def test_no_answer_mixes_two_versions(stage: Stage) -> None:
    assert stage.numbers["mixedAnswers"] == 0


def test_healthy_objects_are_not_written_to(stage: Stage) -> None:
    def versions() -> list[str]:
        kinds = (("lorafinetune", example.FINETUNE), ("adapterdeployment", example.DEPLOYMENT))
        found = [stage.kubectl.get(kind, name) or {} for kind, name in kinds]
        return [item["metadata"]["resourceVersion"] for item in found]

    def is_settled() -> bool:
        return is_true(stage.deployment(), "Ready") and condition(stage.deployment(), "Reconciling") is None

    stage.wait("the deployment to settle", is_settled)
    before = versions()
    time.sleep(15)  # several looks of the operator at its pods
    assert versions() == before


def test_the_operator_takes_less_than_100_mb(stage: Stage) -> None:
    look = ["python3", "-c", "print(open('/proc/1/status').read())"]
    status = stage.in_system("exec", "deployment/loraline-operator", "--", *look)
    (resident_kib,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")]
    assert resident_kib * 1024 < 100e6

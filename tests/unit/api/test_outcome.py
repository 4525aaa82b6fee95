"""The termination message stays inside the kubelet's limit, and exit codes mean one thing."""

import pytest

from loraline_api import outcome
from loraline_api.conditions import Reason
from loraline_api.outcome import ExitCode, MetricResult, Outcome, Sample

LONG_SAMPLES = [Sample(prompt="ä" * 160, before="ö" * 160, after="ü" * 160)] * outcome.MAX_SAMPLES
LONG_METRICS = [MetricResult(name="m" * 64, before="1" * 32, after="2" * 32)] * 16


def test_an_outcome_survives_the_termination_message() -> None:
    written = Outcome(run_id="0123456789", exit_code=0, version="a" * 12, uri="s3://b/adapters/a", samples=LONG_SAMPLES)
    assert outcome.parse_outcome(written.encode().decode()) == written


def test_the_longest_outcome_fits_into_4096_bytes_and_keeps_its_verdict() -> None:
    longest = Outcome(run_id="0123456789", exit_code=17, message="ß" * 1200, metrics=LONG_METRICS, samples=LONG_SAMPLES)
    text = longest.encode()
    assert len(text) <= outcome.TERMINATION_MESSAGE_BYTES
    read = outcome.parse_outcome(text.decode())
    assert read is not None
    assert (read.exit_code, read.message[:300]) == (17, "ß" * 300)


@pytest.mark.parametrize("text", ["", "Killed", '{"runId": 3}', "[]"])
def test_a_message_that_is_no_outcome_is_none(text: str) -> None:
    assert outcome.parse_outcome(text) is None


@pytest.mark.parametrize("code", [code for code in ExitCode if code is not ExitCode.SUCCEEDED])
def test_every_failing_exit_code_has_a_reason_that_conditions_know(code: ExitCode) -> None:
    assert code.reason in set(Reason)


@pytest.mark.parametrize(
    ("code", "retryable"),
    [
        pytest.param(ExitCode.DATASET_INVALID, False, id="bad data stays bad"),
        pytest.param(ExitCode.EVAL_BELOW_THRESHOLD, False, id="a missed gate is an answer"),
        pytest.param(ExitCode.STORAGE_UNAVAILABLE, True, id="storage may come back"),
        pytest.param(ExitCode.KILLED, True, id="a kill says nothing about the inputs"),
        pytest.param(ExitCode.UNEXPECTED_ERROR, True, id="an unexpected error gets another try"),
        pytest.param(ExitCode.SUCCEEDED, False, id="success is not tried again"),
    ],
)
def test_a_retry_follows_only_where_it_can_help(code: ExitCode, retryable: bool) -> None:
    assert code.is_retryable is retryable

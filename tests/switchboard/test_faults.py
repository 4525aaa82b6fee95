"""What stands around the switchboard fails and comes back: S3, vLLM, and the switchboard itself."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from loraline_api.conditions import Reason
from loraline_api.routing import SwitchboardState, VersionPhase
from switchboard import harness
from switchboard.harness import S3, Switchboard, Vllm, phase_of, route, until


async def test_an_s3_that_is_down_is_tried_again_until_it_is_up(
    switchboard: Switchboard, s3: S3, base: Path, adapters: tuple[Path, Path]
) -> None:
    first, second = (s3.publish(folder, base) for folder in adapters)
    await switchboard.serves(route("tickets", first, serving=first))
    s3.program.stop()
    switchboard.wants(route("tickets", first, second, serving=first))
    state = await until(switchboard, lambda state: phase_of(state, second) is VersionPhase.RETRYING)
    (retrying,) = [item for item in state.versions if item.version == second.version]
    assert retrying.reason is Reason.STORAGE_UNAVAILABLE
    assert retrying.message.startswith(f"{second.uri}/manifest.json cannot be read now:")
    assert state.ready
    assert (await switchboard.ask("tickets"))[0] == 200
    s3.program.start()
    await until(switchboard, lambda state: phase_of(state, second) is VersionPhase.PROVED)


async def test_a_switchboard_that_starts_again_takes_over_what_vllm_holds(
    switchboard: Switchboard, s3: S3, base: Path, adapters: tuple[Path, Path]
) -> None:
    first, second = (s3.publish(folder, base) for folder in adapters)
    await switchboard.serves(route("tickets", first, serving=first))
    switchboard.program.kill()
    switchboard.wants(route("tickets", second, serving=second))
    switchboard.program.start()
    harness.wait_until("the switchboard", lambda: harness.listens(switchboard.port), 60)
    await switchboard.serves(route("tickets", second, serving=second))
    await until(switchboard, lambda _: not (switchboard.adapters / first.version).exists())
    assert (await switchboard.ask("tickets"))[1]["x-loraline-version"] == second.version


@pytest.mark.parametrize("switchboard", [("--hang-seconds", "12")], indirect=True)
async def test_a_vllm_that_hangs_fails_its_liveness_and_once_started_again_everything_is_proved_again(
    switchboard: Switchboard, vllm: Vllm, s3: S3, base: Path, adapters: tuple[Path, Path]
) -> None:
    first = s3.publish(adapters[0], base)
    await switchboard.serves(route("tickets", first, serving=first))
    _, _, before = await switchboard.ask("tickets")
    (proved,) = (await switchboard.state()).versions
    assert (await switchboard.get("/engine/health"))[0] == 200
    vllm.program.signal(signal.SIGSTOP)
    state = await until(switchboard, lambda state: not state.ready, timeout_s=60)
    assert state.message == "vLLM gave no token for 12 s: it is started again"
    assert (await switchboard.get("/engine/health"))[0] == 503
    vllm.program.kill()
    state = await until(switchboard, lambda state: state.message.startswith("vLLM is not reached on"))
    assert not state.engine_healthy
    status, headers, answer = await switchboard.ask("tickets")
    assert (status, headers["Retry-After"]) == (503, "1")
    assert answer["error"]["message"].startswith("this pod does not serve yet: vLLM is not reached on")
    vllm.program.start()
    await until(switchboard, lambda state: state.ready)
    assert (await switchboard.get("/engine/health"))[0] == 200
    _, _, after = await switchboard.ask("tickets")
    assert after["choices"] == before["choices"]
    (again,) = (await switchboard.state()).versions
    assert again.fingerprint == proved.fingerprint
    assert again.answer is not None
    assert proved.answer is not None
    assert again.answer.agrees_with(proved.answer)


@pytest.mark.parametrize("switchboard", [("--proof-seconds", "0.5")], indirect=True)
async def test_a_loaded_version_is_proved_again_and_again(
    switchboard: Switchboard, s3: S3, base: Path, adapters: tuple[Path, Path]
) -> None:
    first = s3.publish(adapters[0], base)
    await switchboard.serves(route("tickets", first, serving=first))
    (proved,) = (await switchboard.state()).versions

    def is_checked(state: SwitchboardState) -> bool:
        at = [item.checked_at for item in state.versions]
        return at != [proved.checked_at]

    (again,) = (await until(switchboard, is_checked)).versions
    assert (again.proved_at, again.answer) == (proved.proved_at, proved.answer)

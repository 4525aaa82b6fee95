"""What stands around the switchboard fails and comes back: S3, vLLM, and the switchboard itself."""

from __future__ import annotations

from pathlib import Path

from loraline_api.conditions import Reason
from loraline_api.routing import VersionPhase
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


async def test_a_vllm_that_starts_again_is_noticed_and_everything_is_proved_again(
    switchboard: Switchboard, vllm: Vllm, s3: S3, base: Path, adapters: tuple[Path, Path]
) -> None:
    first = s3.publish(adapters[0], base)
    await switchboard.serves(route("tickets", first, serving=first))
    _, _, before = await switchboard.ask("tickets")
    vllm.program.kill()
    state = await until(switchboard, lambda state: not state.ready)
    assert not state.engine_healthy
    status, headers, answer = await switchboard.ask("tickets")
    assert (status, headers["Retry-After"]) == (503, "1")
    assert answer["error"]["message"].startswith("this pod does not serve yet: vLLM is not reached on")
    assert (await switchboard.get("/engine/health"))[0] == 503
    vllm.program.start()
    await until(switchboard, lambda state: state.ready)
    _, _, after = await switchboard.ask("tickets")
    assert after["choices"] == before["choices"]

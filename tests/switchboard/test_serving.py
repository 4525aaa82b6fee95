"""What callers get from the switchboard before a real vLLM and a real S3, while versions come and go."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from loraline_api.routing import RouteVersion, VersionPhase
from switchboard.harness import S3, Switchboard, phase_of, route, until

PROMPTS = ("hello world", "the quick brown fox", "kubernetes operators", "0123456789")
CALLERS = 6
SWAPS = 20


@pytest.fixture
def versions(s3: S3, base: Path, adapters: tuple[Path, Path]) -> tuple[RouteVersion, RouteVersion]:
    """Two published versions."""
    return s3.publish(adapters[0], base), s3.publish(adapters[1], base)


async def roll(board: Switchboard, old: RouteVersion, new: RouteVersion) -> None:
    """Moves the route `tickets` from one version to another in the operator's steps."""
    loading = board.wants(route("tickets", old, new, serving=old))
    await until(board, lambda state: state.table_digest == loading.digest and phase_of(state, new) == "Proved")
    switched = board.wants(route("tickets", old, new, serving=new))
    await until(board, lambda state: state.table_digest == switched.digest and state.ready)
    board.wants(route("tickets", new, serving=new))
    await until(board, lambda state: phase_of(state, old) is None)


async def test_a_route_answers_with_its_version(
    switchboard: Switchboard, versions: tuple[RouteVersion, RouteVersion]
) -> None:
    first, _ = versions
    await switchboard.serves(route("tickets", first, serving=first))
    status, headers, answer = await switchboard.ask("tickets")
    _, _, plain = await switchboard.ask("base")
    assert status == 200
    assert headers["x-loraline-version"] == first.version
    assert answer["model"] == f"tickets@{first.version}"
    assert plain["choices"][0]["text"] != answer["choices"][0]["text"]


async def test_callers_see_the_base_model_and_the_routes(
    switchboard: Switchboard, versions: tuple[RouteVersion, RouteVersion]
) -> None:
    first, _ = versions
    await switchboard.serves(route("tickets", first, serving=first))
    _, text = await switchboard.get("/v1/models")
    cards = {card["id"]: (card["root"], card["parent"]) for card in json.loads(text)["data"]}
    assert cards == {"base": ("base", None), "tickets": (f"tickets@{first.version}", "base")}


async def test_versions_are_swapped_under_load_without_a_failed_or_mixed_answer(
    switchboard: Switchboard, versions: tuple[RouteVersion, RouteVersion]
) -> None:
    first, second = versions
    await switchboard.serves(route("tickets", first, second, serving=first))
    expected = {}
    for version in versions:
        for prompt in PROMPTS:
            _, _, answer = await switchboard.ask(f"tickets@{version.version}", prompt)
            expected[version.version, prompt] = answer["choices"][0]["text"]
    switchboard.wants(route("tickets", first, serving=first))
    await until(switchboard, lambda state: phase_of(state, second) is None)

    is_over = asyncio.Event()
    answers: list[tuple[int, str, bool]] = []

    async def call(prompt: str) -> None:
        while not is_over.is_set():
            status, headers, answer = await switchboard.ask("tickets", prompt)
            version = headers.get("x-loraline-version", "")
            text = answer["choices"][0]["text"] if status == 200 else str(answer)
            answers.append((status, version, text == expected.get((version, prompt))))

    callers = [asyncio.create_task(call(PROMPTS[number % len(PROMPTS)])) for number in range(CALLERS)]
    for number in range(SWAPS):
        await roll(switchboard, *(versions if number % 2 == 0 else versions[::-1]))
    is_over.set()
    await asyncio.gather(*callers)
    assert Counter((status, is_right) for status, _, is_right in answers) == {(200, True): len(answers)}
    assert {version for _, version, _ in answers} == {first.version, second.version}


async def test_fifty_routes_over_two_versions_are_proved_and_answer(
    switchboard: Switchboard, versions: tuple[RouteVersion, RouteVersion]
) -> None:
    served = {f"route-{number:02}": versions[number % 2] for number in range(50)}
    await switchboard.serves(*(route(name, version, serving=version) for name, version in served.items()))
    state = await switchboard.state()
    assert len({item.fingerprint for item in state.versions}) == 2
    for name in ("route-00", "route-01", "route-49"):
        status, headers, _ = await switchboard.ask(name)
        assert (status, headers["x-loraline-version"]) == (200, served[name].version)


async def streamed(board: Switchboard, tokens: int, begun: asyncio.Event) -> tuple[str, Sequence[str]]:
    """The version and the lines of a streamed completion."""
    body: dict[str, object] = {
        "model": "tickets",
        "prompt": "hello",
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    lines = []
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{board.url}/v1/completions", json=body) as answer,
    ):
        async for line in answer.content:
            begun.set()
            lines.append(line.decode().strip())
        return answer.headers["x-loraline-version"], [line for line in lines if line]


async def test_a_stream_ends_on_the_version_that_it_began_with(
    switchboard: Switchboard, versions: tuple[RouteVersion, RouteVersion]
) -> None:
    first, second = versions
    await switchboard.serves(route("tickets", first, second, serving=first))
    begun = asyncio.Event()
    stream = asyncio.create_task(streamed(switchboard, 400, begun))
    await begun.wait()
    table = switchboard.wants(route("tickets", second, serving=second))
    state = await until(switchboard, lambda state: state.table_digest == table.digest and state.ready)
    assert not stream.done()
    assert phase_of(state, first) is VersionPhase.DRAINING
    version, lines = await stream
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert lines[-1] == "data: [DONE]"
    assert version == first.version
    assert {chunk["model"] for chunk in chunks} == {f"tickets@{first.version}"}
    assert chunks[-1]["usage"]["completion_tokens"] == 400
    await until(switchboard, lambda state: phase_of(state, first) is None)
    await until(switchboard, lambda _: not (switchboard.adapters / first.version).exists())


async def test_a_stop_waits_for_the_answers_that_have_begun(
    switchboard: Switchboard, versions: tuple[RouteVersion, RouteVersion]
) -> None:
    first, _ = versions
    await switchboard.serves(route("tickets", first, serving=first))
    begun = asyncio.Event()
    stream = asyncio.create_task(streamed(switchboard, 200, begun))
    await begun.wait()
    switchboard.program.process.terminate()
    _, lines = await stream
    assert lines[-1] == "data: [DONE]"


async def test_a_leaving_pod_waits_until_its_answers_are_given(
    switchboard: Switchboard, versions: tuple[RouteVersion, RouteVersion]
) -> None:
    first, _ = versions
    await switchboard.serves(route("tickets", first, serving=first))
    begun = asyncio.Event()
    stream = asyncio.create_task(streamed(switchboard, 300, begun))
    await begun.wait()
    assert await switchboard.get("/drain") == (200, "idle\n")
    assert stream.done()
    await stream


async def test_a_caller_that_goes_away_is_not_answered_any_longer(
    switchboard: Switchboard, versions: tuple[RouteVersion, RouteVersion]
) -> None:
    first, _ = versions
    await switchboard.serves(route("tickets", first, serving=first))
    begun = asyncio.Event()
    stream = asyncio.create_task(streamed(switchboard, 400, begun))
    await begun.wait()
    assert [item.in_flight for item in (await switchboard.state()).versions] == [1]
    stream.cancel()
    await until(switchboard, lambda state: [item.in_flight for item in state.versions] == [0], timeout_s=2)


async def test_an_unknown_model_is_told_what_is_served(
    switchboard: Switchboard, versions: tuple[RouteVersion, RouteVersion]
) -> None:
    first, _ = versions
    waiting = route("later", serving=None).model_copy(update={"waiting_for": "LoraFineTune later is Running"})
    await switchboard.serves(waiting, route("tickets", first, serving=first))
    unknown, early = await switchboard.ask("nope"), await switchboard.ask("later")
    assert (unknown[0], unknown[2]["error"]["message"]) == (
        404,
        "model `nope` is not served here; it serves: `base`, `tickets`",
    )
    assert (early[0], early[2]["error"]["message"]) == (
        404,
        "route `later` has no version yet: LoraFineTune later is Running; served now: `base`, `tickets`",
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
        ("POST", "/adapters"),
        ("POST", "/invocations"),
        ("GET", "/v1/models/../../adapters"),
    ],
)
async def test_the_rest_of_vllm_is_out_of_reach(switchboard: Switchboard, method: str, path: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, switchboard.url + path, json={"lora_name": "x", "lora_path": "/etc"}) as answer,
    ):
        assert answer.status == 404


async def test_a_request_that_is_no_json_is_told_so(switchboard: Switchboard) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{switchboard.url}/v1/completions", data=b"{model") as answer,
    ):
        assert answer.status == 400
        assert (await answer.json())["error"]["message"].startswith("the request's body is no JSON:")

"""Speaks the part of vLLM's HTTP API that the switchboard needs: health, list, load, unload, greedy probe.

What vLLM answers becomes a value or an error here; what follows from it is the worker's concern.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp

from loraline_api.conditions import Reason
from loraline_api.probe import ProbeAnswer
from loraline_switchboard import proof
from loraline_switchboard.errors import Rejected, SwitchboardError, Unavailable

LIST_TIMEOUT_S = 10.0
LOAD_TIMEOUT_S = 300.0
PROBE_TIMEOUT_S = 600.0
"""The first completion after a start compiles kernels: 18 s were seen on two cores."""


class EngineDown(Exception):
    """Nothing answers, or vLLM says itself that its engine is dead: whatever was loaded is lost."""


class EngineBusy(Exception):
    """No answer in time; vLLM may be at work."""


class Engine:
    """One vLLM."""

    def __init__(self, url: str) -> None:
        self.url = url
        # vLLM closes idle connections after 5 s; a fresh one for each request cannot meet that race.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self.session = aiohttp.ClientSession(
            connector=connector, auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.close()

    async def check_health(self) -> None:
        """Returns when vLLM says that it is healthy; raises EngineDown or EngineBusy otherwise."""
        status, _ = await self._call("GET", "/health", None, LIST_TIMEOUT_S)
        if status != 200:
            raise EngineDown(f"vLLM's /health answers {status}")

    async def roots(self) -> dict[str, str]:
        """The folder of each model that vLLM lists, by name."""
        status, body = await self._call("GET", "/v1/models", None, LIST_TIMEOUT_S)
        if status != 200:
            raise EngineDown(f"vLLM's /v1/models answers {status}")
        try:
            return {card["id"]: card["root"] for card in json.loads(body)["data"]}
        except (ValueError, LookupError, TypeError) as error:
            raise EngineDown(f"vLLM's /v1/models cannot be read: {error!r}") from error

    async def load(self, name: str, root: str) -> None:
        """Loads the adapter in a folder under a name; loaded already from the same folder is success.

        Raises:
            Rejected: vLLM does not take it.
        """
        body = {"lora_name": name, "lora_path": root}
        status, text = await self._call("POST", "/v1/load_lora_adapter", body, LOAD_TIMEOUT_S)
        if status == 200 or (await self.roots()).get(name) == root:
            return
        await self.check_health()  # a dead engine answers 500 too
        raise Rejected(Reason.LOAD_REJECTED, f"vLLM does not take {name}: {_error_message(text)}")

    async def unload(self, name: str) -> None:
        """Makes vLLM forget a name; unknown already is success."""
        status, text = await self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name}, LOAD_TIMEOUT_S)
        if status not in (200, 404):
            await self.check_health()
            raise SwitchboardError(Reason.LOAD_REJECTED, f"vLLM does not unload {name}: {_error_message(text)}")

    async def answer(self, model: str) -> ProbeAnswer:
        """The greedy answer of a model to the probe prompt, from no cache.

        Raises:
            Rejected: vLLM answers with an error.
            Unavailable: vLLM's answer is none that can be read.
        """
        body = {
            "model": model,
            "prompt": proof.PROMPT,
            "max_tokens": proof.MAX_TOKENS,
            "temperature": 0,
            "logprobs": 1,
            "ignore_eos": True,
            "return_token_ids": True,
            "cache_salt": uuid.uuid4().hex,
        }
        status, text = await self._call("POST", "/v1/completions", body, PROBE_TIMEOUT_S)
        if status != 200:
            await self.check_health()
            raise Rejected(
                Reason.PROBE_FAILED, f"the probe of {model} was answered with {status}: {_error_message(text)}"
            )
        try:
            choice = json.loads(text)["choices"][0]
            logprobs = [float("nan") if value is None else value for value in choice["logprobs"]["token_logprobs"]]
            return ProbeAnswer(token_ids=choice["token_ids"], logprobs=logprobs)
        except (ValueError, LookupError, TypeError) as error:
            raise Unavailable(
                Reason.PROBE_FAILED,
                f"vLLM's answer to the probe of {model} cannot be read: {error!r}; it is asked again",
            ) from error

    async def give_token(self, model: str, timeout_s: float) -> None:
        """Returns when vLLM has given one token; raises EngineDown or EngineBusy otherwise."""
        body = {"model": model, "prompt": proof.PROMPT, "max_tokens": 1, "cache_salt": uuid.uuid4().hex}
        await self._call("POST", "/v1/completions", body, timeout_s)

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float
    ) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(timeout_s):
                async with self.session.request(method, self.url + path, json=body) as response:
                    return response.status, await response.read()
        except TimeoutError as error:
            raise EngineBusy(f"vLLM did not answer {path} within {timeout_s:.0f} s") from error
        except aiohttp.ClientError as error:
            raise EngineDown(f"vLLM is not reached on {self.url}: {error}") from error


def _error_message(text: bytes) -> str:
    """The message in vLLM's error answer, bounded for a condition."""
    try:
        message = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = text.decode(errors="replace")
    return str(message).strip()[:400]

"""Notices a vLLM that hangs without dying: its health check answers, and no token comes.

While answers flow nothing is asked: a vLLM at work is alive, however long its queue. When none came for a while, one
token of the base model is asked for; none within a generous limit, and no part of any other answer either, is a vLLM
that has to be started again. The kubelet does that, by the liveness probe.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from loraline_switchboard.engine import Engine, EngineBusy, EngineDown
from loraline_switchboard.registry import Registry

log = logging.getLogger("loraline.switchboard")


@dataclass(frozen=True, slots=True)
class HeartbeatPace:
    """How often it listens, in seconds."""

    quiet_s: float = 30.0  # without a token for so long, one is asked for
    limit_s: float = 300.0  # a prompt of a hundred thousand tokens takes a minute before its first answer


class Heartbeat:
    """The loop of one pod."""

    def __init__(
        self,
        registry: Registry,
        engine: Engine,
        pace: HeartbeatPace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._pace = pace or HeartbeatPace()
        self._clock = clock

    async def run(self) -> None:
        """Listens until it is cancelled."""
        while True:
            await asyncio.sleep(self._pace.quiet_s / 2)
            await self.listen()

    async def listen(self) -> None:
        """Asks for a token when none came for a while."""
        registry, began = self._registry, self._clock()
        is_up = registry.base_answer is not None and not registry.engine_sick
        if not is_up or began - registry.last_token < self._pace.quiet_s:
            return
        try:
            await self._engine.give_token(registry.base_name, self._pace.limit_s)
        except EngineDown:
            return  # the worker sees it too, and a vLLM that is down ends by itself
        except EngineBusy:
            if registry.last_token < began and registry.base_answer is not None:
                registry.engine_sick = f"vLLM gave no token for {self._pace.limit_s:.0f} s: it is started again"
                log.warning("%s", registry.engine_sick)
                registry.engine_lost(registry.engine_sick)
            return
        registry.last_token = self._clock()

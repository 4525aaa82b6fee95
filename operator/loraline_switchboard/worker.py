"""Works towards the routing table: brings versions up, notices when vLLM forgot them, drains and removes old ones.

Level-triggered: each turn compares what the table wants with what is held, so a lost step is made in the next turn. It
answers no requests. One version's trouble holds up no other: each is brought up by a task of its own.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loraline_api.conditions import Reason
from loraline_api.probe import ProbeAnswer
from loraline_api.routing import VersionPhase
from loraline_switchboard import preflight, proof, table
from loraline_switchboard.base_model import BaseModel
from loraline_switchboard.engine import Engine, EngineBusy, EngineDown
from loraline_switchboard.errors import Rejected, SwitchboardError, Unavailable
from loraline_switchboard.registry import Held, Registry
from loraline_switchboard.store import AdapterStore

log = logging.getLogger("loraline.switchboard")

MAX_DOWNLOADS = 2
"""Downloads at once: more would not be faster and would hold more memory."""

BASE_TASK = "base"
"""Key of the task that asks the base model; versions' keys hold an @."""

PROOF_TASK = "proof"
"""Key of the task that proves a loaded version again."""

DOUBTS = 2
"""Proofs in a row that have to fail before vLLM is started again."""

BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""Waits between two tries of a version that is Retrying; the last one repeats."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the worker looks, in seconds."""

    turn_s: float = 0.5
    engine_s: float = 2.0  # one health and one list request of vLLM
    engine_busy_limit_s: float = 60.0  # without any answer for so long it counts as down
    proof_s: float = 600.0  # from one proof of a loaded version to the next: a greedy answer of eight tokens
    files_grace_s: float = 60.0  # files outlive their unload: vLLM may still schedule a request that was given up


class Worker:
    """The loop of one pod."""

    def __init__(
        self,
        registry: Registry,
        *,
        engine: Engine,
        store: AdapterStore,
        base: BaseModel,
        table_path: Path,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry
        self.last_turn = clock()
        self._engine = engine
        self._store = store
        self._base = base
        self._table_path = table_path
        self._pace = pace or Pace()
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._downloads = asyncio.Semaphore(MAX_DOWNLOADS)
        self._engine_turn = asyncio.Lock()  # one load or proof at a time, so that no proof meets another's batch
        self._next_engine_look = 0.0
        self._engine_seen = clock()
        self._unused_since: dict[str, float] = {}

    async def run(self) -> None:
        """Turns until it is cancelled."""
        while True:
            await self.turn()
            await asyncio.sleep(self._pace.turn_s)

    async def turn(self) -> None:
        """One look at the table, the engine and the versions, and the next step of each."""
        self._read_table()
        if self._clock() >= self._next_engine_look:
            await self._look_at_engine()
            self._next_engine_look = self._clock() + self._pace.engine_s
        self._start_tasks()
        self.registry.settle()
        await self._let_go()
        await self._remove_files()
        self.last_turn = self._clock()

    def _read_table(self) -> None:
        try:
            desired = table.read(self._table_path)
        except ValueError as error:
            if self.registry.problem != str(error):
                log.warning("%s", error)
            self.registry.problem = str(error)
            return
        if self.registry.desired is None or self.registry.desired.digest != desired.digest:
            log.info("adopted routing table %s", desired.digest)
            self.registry.adopt(desired)

    async def _look_at_engine(self) -> None:
        """Health, then what vLLM lists: a listing without our names is a vLLM that was started again."""
        try:
            await self._engine.check_health()
            roots = await self._engine.roots()
        except EngineBusy as error:
            if self._clock() - self._engine_seen > self._pace.engine_busy_limit_s:
                self._lose_engine(str(error))
            return
        except EngineDown as error:
            self.registry.engine_sick = ""  # what was sick has ended
            self._lose_engine(str(error))
            return
        if self.registry.engine_sick:
            return
        self._engine_seen = self._clock()
        self.registry.engine_healthy = True
        lost = [
            held.name for held in self.registry.held.values() if held.is_proved and roots.get(held.name) != held.root
        ]
        if lost:
            self._lose_engine(f"vLLM no longer lists {lost[0]}: it was started again")
            self.registry.engine_healthy = True
        known = {held.name for held in self.registry.held.values()}
        for name in roots:
            if "@" in name and name not in known:
                await self._unload(name)

    def _lose_engine(self, problem: str) -> None:
        if self.registry.engine_problem != problem:
            log.warning("%s", problem)
        self.registry.engine_lost(problem)

    def _start_tasks(self) -> None:
        for key, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[key]
                task.result()  # an error that is none of ours is a bug: it ends the process, which starts again
        if self.registry.engine_healthy and self.registry.base_answer is None:
            self._start(BASE_TASK, self._ask_base)
        for held in self.registry.held.values():
            is_due = held.phase is VersionPhase.WAITING or (
                held.phase is VersionPhase.RETRYING and self._clock() >= held.retry_at
            )
            can_go_on = not held.is_checked or self.registry.base_answer is not None
            if held.is_wanted and is_due and can_go_on:
                self._start(held.name, functools.partial(self._bring_up, held))
        self._start_proof()

    def _start_proof(self) -> None:
        """Proves a loaded version again whose time has come, one at a time: a listing is no proof that it answers."""
        due = [held for held in self.registry.held.values() if held.is_proved and held.check_due <= self._clock()]
        if due and self.registry.base_answer is not None:
            self._start(PROOF_TASK, functools.partial(self._prove_again, min(due, key=lambda held: held.check_due)))

    async def _prove_again(self, held: Held) -> None:
        """Compares a new answer with that of the proof; a vLLM whose numbers are spoiled has to start again."""
        generation, before = self.registry.engine_generation, held.answer
        async with self._engine_turn:
            held.check_due = self._clock() + self._pace.proof_s
            if not held.is_proved or before is None:
                return
            try:
                answer = await self._engine.answer(held.name)
            except (EngineBusy, EngineDown, SwitchboardError) as error:
                log.warning("%s was not proved again: %s", held.name, error)
                return
        if not held.is_proved or self.registry.engine_generation != generation:
            return
        if proof.is_finite(answer) and answer.agrees_with(before):
            held.checked_at, held.doubts = datetime.now(UTC), 0
            return
        held.doubts += 1
        if held.doubts < DOUBTS:
            held.check_due = self._clock()
            return
        problem = (
            f"vLLM answers the probe of {held.name} otherwise than when it was loaded (fingerprint "
            f"{answer.fingerprint}, before {before.fingerprint}): it is started again"
        )
        self.registry.engine_sick = problem
        self._lose_engine(problem)

    def _start(self, key: str, work: Callable[[], Coroutine[None, None, None]]) -> None:
        if key not in self._tasks:
            self._tasks[key] = asyncio.get_running_loop().create_task(work())

    async def _ask_base(self) -> None:
        """Takes the base model's answer while nothing else is asked: vLLM for CPUs batches base requests wrongly."""
        generation = self.registry.engine_generation
        async with self._engine_turn:
            try:
                answer = await self._engine.answer(self.registry.base_name)
            except (EngineBusy, EngineDown) as error:
                self.registry.engine_problem = str(error)
                return
            except SwitchboardError as error:
                self.registry.engine_problem = f"the base model does not answer: {error.message}"
                return
        if self.registry.engine_healthy and self.registry.engine_generation == generation:
            self.registry.base_answer, self.registry.engine_problem = answer, ""
            log.info("vLLM answers for the base model %s", self.registry.base_name)

    async def _bring_up(self, held: Held) -> None:
        """Downloads, judges, loads and proves a version, or says why not."""
        try:
            if not held.is_checked:
                await self._check(held)
            if self.registry.base_answer is None:
                self._wait(held, self.registry.engine_problem)
                return
            async with self._engine_turn:
                await self._load_and_prove(held, self.registry.base_answer)
        except (EngineBusy, EngineDown) as error:
            self._wait(held, str(error))
        except Rejected as error:
            self._reject(held, error)
        except SwitchboardError as error:
            self._retry(held, error)
        except Exception as error:  # whatever one adapter holds, the process serves all the others
            log.exception("unforeseen error of %s", held.name)
            if held.is_checked:  # the adapter was judged: it is the engine's
                message = f"adapter {held.version} cannot be proved now: {error!r}; it is tried again"
                self._retry(held, Unavailable(Reason.PROBE_FAILED, message))
            else:
                message = f"adapter {held.version} cannot be judged: {error!r}; publish it again"
                self._reject(held, Rejected(Reason.ADAPTER_INVALID, message))

    async def _check(self, held: Held) -> None:
        async with self._downloads:
            if held.phase is not VersionPhase.RETRYING:  # which keeps its reason until the download is done
                held.phase, held.message = VersionPhase.DOWNLOADING, ""
            manifest = await asyncio.to_thread(self._store.fetch, held.version, held.uri)
            limit = self.registry.desired.table.max_lora_rank if self.registry.desired else 0
            folder = self._store.path(held.version)
            await asyncio.to_thread(preflight.check, folder, manifest, self._base, limit)
            held.is_checked = True

    async def _load_and_prove(self, held: Held, base: ProbeAnswer) -> None:
        generation, root = self.registry.engine_generation, str(self._store.path(held.version))
        held.phase, held.reason, held.message = VersionPhase.LOADING, None, ""
        await self._engine.load(held.name, root)
        listed = (await self._engine.roots()).get(held.name)
        if listed != root:
            raise Rejected(
                Reason.PROBE_FAILED, f"vLLM lists {held.name} with folder {listed}, not {root}; delete this pod"
            )
        answer = await self._engine.answer(held.name)
        lack = proof.why_not_proved(answer, base)
        if lack is not None:
            raise Rejected(Reason.PROBE_FAILED, f"adapter {held.version} {lack}")
        if self.registry.engine_generation != generation:
            held.phase = VersionPhase.WAITING  # vLLM went away meanwhile: what was proved is gone
            return
        held.root, held.answer, held.proved_at, held.checked_at = root, answer, datetime.now(UTC), datetime.now(UTC)
        held.check_due = self._clock() + self._pace.proof_s
        held.phase, held.reason, held.message, held.failures, held.doubts = VersionPhase.PROVED, None, "", 0, 0
        log.info("proved %s, fingerprint %s", held.name, answer.fingerprint)
        self.registry.settle()

    def _wait(self, held: Held, problem: str) -> None:
        held.phase, held.reason, held.message = VersionPhase.WAITING, None, problem

    def _reject(self, held: Held, error: Rejected) -> None:
        held.phase, held.reason, held.message = VersionPhase.REJECTED, error.reason, error.message[:1200]
        log.warning("rejected %s: %s", held.name, error.message)

    def _retry(self, held: Held, error: SwitchboardError) -> None:
        wait = BACKOFF_S[min(held.failures, len(BACKOFF_S) - 1)]
        held.failures += 1
        held.retry_at = self._clock() + wait
        held.phase, held.reason, held.message = VersionPhase.RETRYING, error.reason, error.message[:1200]
        log.warning("retrying %s in %.0f s: %s", held.name, wait, error.message)

    async def _let_go(self) -> None:
        """Unloads versions that nothing wants and nobody is answered by."""
        for held in self.registry.unwanted():
            if held.name in self._tasks:
                continue  # on its way up; its task ends first
            if held.root is None or await self._unload(held.name):
                self.registry.held.pop((held.route, held.version), None)

    async def _unload(self, name: str) -> bool:
        try:
            await self._engine.unload(name)
        except (EngineBusy, EngineDown, SwitchboardError) as error:
            log.warning("%s", error)
            return False
        log.info("unloaded %s", name)
        return True

    async def _remove_files(self) -> None:
        """Removes the files of versions that have been in no entry for the grace period."""
        used = {held.version for held in self.registry.held.values()}
        now = self._clock()
        unused = self._store.versions() - used if self.registry.desired else set()
        self._unused_since = {version: self._unused_since.get(version, now) for version in unused}
        for version, since in list(self._unused_since.items()):
            if now - since >= self._pace.files_grace_s:
                await asyncio.to_thread(self._store.remove, version)
                log.info("removed the files of %s", version)

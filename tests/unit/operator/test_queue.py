"""The work queue: a key waits once, runs once at a time, and comes again when it was added meanwhile."""

from __future__ import annotations

import asyncio

from loraline_operator.actions import Kind, Ref
from loraline_operator.queue import LONGEST_BACKOFF_S, WorkQueue

A = Ref(Kind.FINE_TUNE, "ns", "a")
B = Ref(Kind.FINE_TUNE, "ns", "b")


async def is_empty(queue: WorkQueue) -> bool:
    try:
        await asyncio.wait_for(queue.get(), 0.02)
    except TimeoutError:
        return True
    return False


async def test_a_key_that_waits_is_not_queued_twice() -> None:
    queue = WorkQueue()
    for key in (A, A, B, A):
        queue.add(key)
    assert ([await queue.get(), await queue.get()], await is_empty(queue)) == ([A, B], True)


async def test_a_key_that_is_added_while_it_runs_runs_again_afterwards() -> None:
    queue = WorkQueue()
    queue.add(A)
    await queue.get()
    queue.add(A)
    assert await is_empty(queue)
    queue.done(A)
    assert await queue.get() == A


async def test_a_key_does_not_run_again_for_what_its_run_has_brought_about_itself() -> None:
    queue = WorkQueue()
    queue.add(A)
    await queue.get()
    queue.add(A, 7)
    queue.own(A, 7)
    queue.done(A)
    assert await is_empty(queue)


async def test_a_key_runs_again_for_what_others_did_while_it_ran() -> None:
    for cause in (8, None):
        queue = WorkQueue()
        queue.add(A)
        await queue.get()
        queue.add(A, 7)
        queue.add(A, cause)
        queue.own(A, 7)
        queue.done(A)
        assert await queue.get() == A


async def test_a_later_time_replaces_the_one_said_before() -> None:
    queue = WorkQueue()
    queue.add_after(A, 0.0)
    queue.add_after(A, 60.0)
    assert await is_empty(queue)
    queue.add_after(A, 0.0)
    assert await queue.get() == A
    queue.forget(A)


async def test_failures_in_a_row_wait_twice_as_long_each_up_to_five_minutes() -> None:
    queue = WorkQueue()
    delays = [queue.failed(A) for _ in range(20)]
    queue.forget(A)
    for number, delay in enumerate(delays):
        longest = min(0.005 * 2**number, LONGEST_BACKOFF_S)
        assert longest / 2 <= delay <= longest


async def test_success_makes_the_next_failure_the_first_again() -> None:
    queue = WorkQueue()
    for _ in range(10):
        queue.failed(A)
    queue.succeeded(A)
    assert queue.failed(A) <= 0.005
    queue.forget(A)


async def test_the_servers_retry_after_is_kept() -> None:
    queue = WorkQueue()
    assert queue.failed(A, at_least_s=7.0) == 7.0
    queue.forget(A)

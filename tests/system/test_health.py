"""Checks that fail, hang, raise or are cancelled all end up in the report, in bounded time."""

import asyncio
import time

import pytest

from edge_runtime.health import Health


async def fine() -> None:
    """Pass."""


async def hangs() -> None:
    """Never answer."""
    await asyncio.Event().wait()


async def raises() -> str:
    """Break."""
    raise OSError(5, "disk is gone")


async def gives_up() -> str:
    """Run into a time limit of its own."""
    raise TimeoutError("the broker did not answer")


async def says() -> str:
    """Find something."""
    return "outbox is full"


async def waits_for_a_cancelled_task() -> None:
    """Wait for somebody who was cancelled."""
    task = asyncio.create_task(hangs())
    asyncio.get_running_loop().call_soon(task.cancel)
    await task


def test_all_well() -> None:
    """Without checks, and with one that passes, the status is ok."""
    health = Health()
    assert asyncio.run(health.run()).status == "ok"
    health.register("fine", fine, fatal=True)
    report = asyncio.run(health.run())
    assert (report.status, report.alive, report.problems) == ("ok", True, {})
    assert health.last is report


def test_every_way_to_fail_is_reported() -> None:
    """Late, raising, cancelled and finding checks are told apart, and none hides another."""
    health = Health(timeout_seconds=0.2)
    for name, check in (("hangs", hangs), ("raises", raises), ("gives_up", gives_up), ("says", says), ("fine", fine)):
        health.register(name, check, fatal=False)
    health.register("cancelled", waits_for_a_cancelled_task, fatal=False)
    began = time.monotonic()
    report = asyncio.run(health.run())
    assert time.monotonic() - began < 2
    assert report.problems == {
        "hangs": "no answer within 0.2 s",
        "raises": "OSError: [Errno 5] disk is gone",
        "gives_up": "TimeoutError: the broker did not answer",
        "says": "outbox is full",
        "cancelled": "what it waited for was cancelled",
    }
    assert (report.status, report.alive) == ("degraded", True)


def test_only_a_fatal_problem_starves_the_watchdog() -> None:
    """The same finding is degraded or failed, as registered."""
    health = Health()
    health.register("says", says, fatal=True)
    report = asyncio.run(health.run())
    assert (report.status, report.alive) == ("failed", False)
    health.register("says", says, fatal=False)
    assert asyncio.run(health.run()).alive


def test_stopping_is_not_a_finding() -> None:
    """Cancelling the run while a check hangs ends it, and leaves the last report as it was."""

    async def scenario() -> None:
        health = Health(timeout_seconds=30)
        health.register("hangs", hangs, fatal=True)
        before = health.last
        task = asyncio.create_task(health.run())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert health.last is before

    asyncio.run(scenario())

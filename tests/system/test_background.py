"""Background work cannot end the daemon, and is not lost silently."""

import asyncio

import pytest

from edge_runtime.system.background import Background


def test_work_that_fails_is_told_and_begun_again() -> None:
    """The TaskGroup around it goes on."""
    attempts = 0

    async def work() -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise OSError(24, "Too many open files")

    async def scenario() -> None:
        async with asyncio.TaskGroup() as tasks:
            background = Background(tasks, restart_seconds=0.01)
            await background.keep("watchdog", work)
            assert attempts == 3
            assert "watchdog failed: [Errno 24]" in (background.problem() or "")

    asyncio.run(scenario())


def test_a_failure_of_long_ago_is_no_problem_any_more() -> None:
    """Health speaks of now."""

    async def work() -> None:
        raise ValueError

    async def scenario() -> None:
        async with asyncio.TaskGroup() as tasks:
            background = Background(tasks, restart_seconds=0.1, restart_max_seconds=0.1)
            task = background.keep("sensor", work)
            await asyncio.sleep(0.01)
            assert background.problem() == "sensor failed: ValueError"
            task.cancel()
            await asyncio.sleep(0.15)
            assert background.problem() is None

    asyncio.run(scenario())


def test_work_that_is_done_once_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged."""

    async def work() -> None:
        raise OSError("no")

    async def scenario() -> None:
        async with asyncio.TaskGroup() as tasks:
            Background(tasks).once("announcement", work)

    asyncio.run(scenario())
    assert "announcement failed" in caplog.text

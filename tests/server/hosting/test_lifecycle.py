import asyncio
import os
import signal

import pytest

from attendant_server.hosting.lifecycle import StopRequest


async def _forever() -> None:
    await asyncio.Event().wait()


async def test_the_first_signal_asks_for_a_drain_and_the_second_for_haste() -> None:
    stop = StopRequest()
    with stop.on_signals():
        assert (stop.is_draining, stop.is_urgent) == (False, False)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 5)
        assert (stop.is_draining, stop.is_urgent) == (True, False)
        os.kill(os.getpid(), signal.SIGINT)
        assert not await stop.run_within(_forever(), 5)
        assert (stop.is_draining, stop.is_urgent) == (True, True)


async def test_work_that_ends_before_any_request_to_stop_is_whole() -> None:
    done = []

    async def work() -> None:
        done.append(True)

    assert await StopRequest().run_unless_stopped(work())
    assert done == [True]


async def test_a_request_to_stop_cancels_work_that_is_not_needed_any_more() -> None:
    stop, was_cancelled = StopRequest(), asyncio.Event()

    async def work() -> None:
        stop.ask()
        try:
            await asyncio.Event().wait()
        finally:
            was_cancelled.set()

    assert not await stop.run_unless_stopped(work())
    assert was_cancelled.is_set()


async def test_a_drain_ends_at_its_time_limit() -> None:
    assert not await StopRequest().run_within(_forever(), 0.01)


async def test_a_failure_of_the_work_is_not_swallowed() -> None:
    async def work() -> None:
        raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        await StopRequest().run_unless_stopped(work())

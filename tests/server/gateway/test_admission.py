"""Permits are bounded and always come back; a deadline is the sooner of two."""

import asyncio
import time

import pytest

from attendant_server.errors import ServingError
from attendant_server.gateway.admission import Admission, Deadline


def test_permits_run_out_and_come_back_once_each() -> None:
    admission = Admission("tiny", max_queue=2)
    first, second = admission.take(), admission.take()
    with pytest.raises(ServingError, match="takes at most 2") as caught:
        admission.take()
    assert caught.value.code == "queue_full"
    assert caught.value.retry_after_s == 1.0
    first.release()
    first.release()
    assert admission.num_held == 1
    admission.take()
    second.release()


def test_a_flood_of_one_tenant_leaves_permits_for_another() -> None:
    admission = Admission("tiny", max_queue=4)
    for _ in range(4):
        admission.take("flood")
    with pytest.raises(ServingError):
        admission.take("flood")
    quiet = [admission.take("quiet"), admission.take("quiet")]
    with pytest.raises(ServingError):
        admission.take("quiet")
    admission.take("heavy", 4.0)
    quiet[0].release()
    with pytest.raises(ServingError):
        admission.take("quiet")
    quiet[1].release()
    admission.take("quiet")


def test_the_time_to_come_back_follows_how_fast_permits_return(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    admission = Admission("tiny", max_queue=40)
    permits = [admission.take() for _ in range(40)]
    for place in range(30):
        now_s += 0.5
        permits[place].release()
        permits.append(admission.take())
    with pytest.raises(ServingError) as caught:
        admission.take()
    assert caught.value.retry_after_s == pytest.approx(0.5 * 4)


def test_the_sooner_of_the_callers_and_the_servers_deadline_counts() -> None:
    now = time.monotonic()
    assert Deadline(callers_s=now + 5, request_timeout_s=600).at_s == now + 5
    assert Deadline(callers_s=now + 5000, request_timeout_s=10).at_s == pytest.approx(now + 10, abs=1)
    assert Deadline(callers_s=None, request_timeout_s=10).at_s == pytest.approx(now + 10, abs=1)


async def test_work_that_takes_longer_is_cancelled_and_the_error_says_whose_limit_it_was() -> None:
    was_cancelled = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            was_cancelled.set()

    with pytest.raises(ServingError, match="the request's deadline") as caught:
        await Deadline(callers_s=time.monotonic() + 0.01, request_timeout_s=600).guard(forever())
    assert caught.value.code == "deadline_exceeded"
    assert was_cancelled.is_set()
    with pytest.raises(ServingError, match="this server's limit"):
        await Deadline(callers_s=None, request_timeout_s=0.01).guard(forever())


async def test_a_timeout_of_the_work_itself_is_not_taken_for_the_deadline() -> None:
    async def fails() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await Deadline(callers_s=None, request_timeout_s=600).guard(fails())


def test_a_deadline_that_has_passed_is_refused_at_once() -> None:
    with pytest.raises(ServingError) as caught:
        Deadline(callers_s=time.monotonic() - 1, request_timeout_s=600).check()
    assert caught.value.code == "deadline_exceeded"

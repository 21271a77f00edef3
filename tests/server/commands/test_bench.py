"""The load generator's times and figures, and the command around them."""

import asyncio
import json

import pytest

from attendant_server.commands.bench_report import make_report, quantiles
from attendant_server.commands.load_generator import Load, LoadResult, RequestTimes, run_load
from attendant_server.errors import ServingError
from tests.clients.conftest import RunningServer
from tests.server.commands.conftest import Run
from tests.server.grpc_api.fakes import FakeGateway

LOAD = Load(model="tiny", vocab_size=512, num_requests=6, concurrency=2, prompt_tokens=5, max_tokens=2)


def test_tokens_that_came_together_share_their_wait() -> None:
    times = RequestTimes(start_s=1.0, messages=[(1.5, 1), (2.5, 2), (2.75, 1)], end_s=3.0)
    assert times.first_token_s == 0.5
    assert times.inter_token_s == [0.5, 0.5, 0.25]
    assert (times.num_tokens, times.duration_s) == (4, 2.0)


def test_percentiles_are_values_that_were_measured() -> None:
    found = quantiles([float(value) for value in range(100, 0, -1)])
    assert (found.p50, found.p90, found.p99, found.mean) == (50.0, 90.0, 99.0, 50.5)
    assert quantiles([3.0]).p99 == 3.0
    assert quantiles([]).p50 is None


def test_failed_requests_are_counted_and_not_averaged() -> None:
    good = RequestTimes(start_s=0.0, messages=[(1.0, 1), (2.0, 1)], end_s=2.0, num_prompt_tokens=5)
    bad = RequestTimes(start_s=0.0, end_s=0.1, error="Busy.")
    report = make_report(LoadResult(load=LOAD, requests=[good, bad], duration_s=2.0))
    assert (report.num_failed, report.first_error) == (1, "Busy.")
    assert (report.requests_per_s, report.generated_tokens_per_s, report.total_tokens_per_s) == (0.5, 1.0, 3.5)
    assert report.end_to_end_s.p99 == 2.0


@pytest.mark.parametrize("rate", [None, 500.0])
def test_a_load_sends_different_random_prompts_of_full_length(running: RunningServer, rate: float | None) -> None:
    load = Load(model="tiny", vocab_size=512, num_requests=6, concurrency=2, prompt_tokens=5, max_tokens=2, rate=rate)
    done: list[None] = []
    result = asyncio.run(run_load(load, running.url, None, lambda: done.append(None)))
    asked = [request for request, _ in running.gateway.calls]
    prompts = {tuple(request.prompts[0]) for request in asked}
    assert len(prompts) == len(done) == len(result.requests) == 6
    assert all(len(prompt) == 5 and max(prompt) < 512 for prompt in prompts)
    assert {(request.ignore_eos, request.max_tokens, request.temperature) for request in asked} == {(True, 2, 0.0)}
    assert all(request.error is None and request.num_tokens == 2 for request in result.requests)


def test_no_more_than_concurrency_requests_are_under_way(running: RunningServer) -> None:
    running.gateway.is_holding = True

    async def count() -> int:
        task = asyncio.create_task(run_load(LOAD, running.url, None, lambda: None))
        await asyncio.to_thread(running.wait_for, running.gateway.started)
        while len(running.gateway.calls) < LOAD.concurrency:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return len(running.gateway.calls)

    assert asyncio.run(count()) == LOAD.concurrency


def test_the_command_prints_a_table_or_json(ask: Run) -> None:
    arguments = ("bench", "--concurrency", "1,3", "--requests", "4", "--prompt-tokens", "5", "--max-tokens", "2")
    outcome = ask(*arguments)
    assert outcome.code == 0 and outcome.err == ""
    assert "first token" in outcome.out and "tokens/s" in outcome.out
    levels = json.loads(ask(*arguments, "--json").out)["levels"]
    assert [level["concurrency"] for level in levels] == [1, 3]
    assert all(level["num_requests"] == 4 and level["generated_tokens"] == 8 and level["prompt_tokens"] == 12 for level in levels)
    assert all(level["time_to_first_token_s"]["p50"] <= level["end_to_end_s"]["p99"] for level in levels)


def test_failures_show_and_end_in_exit_code_1(ask: Run, gateway: FakeGateway) -> None:
    gateway.errors = [ServingError("queue_full", "The queue is full.")]
    outcome = ask("bench", "--concurrency", "2", "--requests", "3", "--prompt-tokens", "5", "--max-tokens", "2", "--warmup", "0")
    assert outcome.code == 1
    assert "1 requests failed" in outcome.err and "queue is full" in outcome.err


def test_more_tokens_than_the_model_takes_is_a_wrong_call(ask: Run) -> None:
    outcome = ask("bench", "--prompt-tokens", "100", "--max-tokens", "100")
    assert outcome.code == 2 and "128" in outcome.err

"""What is left behind by callers who left: nothing. Inherited for each way of hosting."""

import pytest

from tests.e2e.callers import open_callers
from tests.e2e.cancellation import grpc_storm, http_storm
from tests.e2e.metrics import eventually, is_idle
from tests.e2e.server_process import ServerProcess
from tests.e2e.story import Question


class CancellationChecks:
    """A storm of callers who leave, then silence, then a good request."""

    num_calls = 1000

    @pytest.mark.parametrize("transport", ["grpc", "http"])
    async def test_nothing_runs_waits_or_holds_a_block_a_second_after_a_storm(self, server: ServerProcess, transport: str) -> None:
        storm = grpc_storm if transport == "grpc" else http_storm
        await storm(server, num_calls=self.num_calls)
        await eventually(server.http_url, is_idle, within_s=1.0)
        question = Question(start=8, length=32)
        async with open_callers(server) as callers:
            for caller in callers.values():
                question.check(await caller.greedy(question.prompt, question.length))

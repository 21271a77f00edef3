"""What every way of hosting must reproduce exactly; a module of tests inherits these for its own ``server`` fixture."""

import asyncio
import uuid

import pytest

from tests.e2e.callers import MODEL, WAYS, open_callers
from tests.e2e.metrics import eventually, scrape, total
from tests.e2e.server_process import ServerProcess
from tests.e2e.story import EXPECTED_IDS, WHOLE, Question


class GreedyChecks:
    """The published story, token by token."""

    @pytest.mark.parametrize("way", WAYS)
    async def test_the_story_alone_with_a_cold_and_then_a_hot_prefix_cache(self, server: ServerProcess, way: str) -> None:
        salt = uuid.uuid4().hex
        late = Question(start=160, length=len(EXPECTED_IDS) - 160)
        async with open_callers(server) as callers:
            WHOLE.check(await callers[way].greedy(WHOLE.prompt, WHOLE.length, salt=salt))
            cold = await callers[way].greedy(late.prompt, late.length, salt=uuid.uuid4().hex)
            # One more than there are replicas: then some replica answers a second time.
            warm = [await callers[way].greedy(late.prompt, late.length, salt=salt) for _ in range(3)]
        late.check(cold)
        assert cold.num_cached_tokens == 0
        for answer in warm:
            late.check(answer)
        assert max(answer.num_cached_tokens for answer in warm) >= 128

    async def test_the_story_among_63_other_requests_on_all_transports_at_once(self, server: ServerProcess) -> None:
        questions = [Question(start=index % 32, length=32 - index % 7) for index in range(64)]
        async with open_callers(server) as callers:
            answers = await asyncio.gather(
                *(
                    callers[WAYS[index % len(WAYS)]].greedy(question.prompt, question.length, salt=uuid.uuid4().hex)
                    for index, question in enumerate(questions)
                )
            )
        for question, answer in zip(questions, answers, strict=True):
            question.check(answer)

    async def test_whole_stories_that_do_not_fit_in_the_cache_together_are_preempted_and_still_right(self, server: ServerProcess) -> None:
        before = total(await scrape(server.http_url), "attendant_preemptions_total", model=MODEL)
        async with open_callers(server) as callers:
            answers = await asyncio.gather(
                *(callers[WAYS[index % len(WAYS)]].greedy(WHOLE.prompt, WHOLE.length, salt=uuid.uuid4().hex) for index in range(64))
            )
        for answer in answers:
            WHOLE.check(answer)
        await eventually(server.http_url, lambda samples: total(samples, "attendant_preemptions_total", model=MODEL) > before)

"""Few-shot tasks: answer queries from worked examples, by scoring labels or by generating.

The first query runs alone and leaves the examples' prefix in an engine's cache; the others then run together where that
is, by the router's choice. With reasoning in the template the model first writes that, and its answer follows from it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from attendant_engine.types import GenerationRequest, ModelInfo, SamplingParams, SequenceOutput
from attendant_server.errors import ServingError
from attendant_server.gateway import validation
from attendant_server.gateway.calls import ActiveCall
from attendant_server.gateway.completions import cache_salt_of
from attendant_server.gateway.few_shot_prompt import CONTENT_FREE_QUERY, FewShotPrompt, build_prompt
from attendant_server.gateway.generation import Generation, GenerationPlan
from attendant_server.gateway.label_scores import LabelTokens, encode_labels, label_logprob, probabilities
from attendant_server.gateway.prompts import encode_prompts
from attendant_server.gateway.requests import FewShotRequest
from attendant_server.gateway.results import FewShotAnswer, FewShotResult, Receipt, Usage
from attendant_server.gateway.seeds import draw_seed, seeds_of
from attendant_server.gateway.sequence_reader import raise_if_failed
from attendant_server.gateway.served_model import ServedModel
from attendant_server.gateway.toolbox import Toolbox

MAX_QUERIES_AT_ONCE = 32
MAX_LABELS_AT_ONCE = 16

T = TypeVar("T")
SeededQuery = tuple[str, int]
"""A query, and the seed that what is generated for it draws from."""


class FewShot:
    """The few-shot task."""

    def __init__(self, toolbox: Toolbox) -> None:
        self._toolbox = toolbox

    async def run(self, model: ServedModel, request: FewShotRequest, call: ActiveCall) -> FewShotResult:
        """Answer every query, in order."""
        info = model.require_info()
        validation.check_task(info, model.name, "few-shot")
        labels = request.labels
        if labels is not None and len(set(labels)) < len(labels):
            raise ServingError("invalid_value", "'labels' names a label twice; give each label once", param="labels")
        if request.calibrate and labels is None:
            raise ServingError(
                "invalid_value", "'calibrate' weighs labels, and there are none; give 'labels' or leave it out", param="calibrate"
            )
        validation.check_num_sequences(len(request.queries), len(labels or ("",)), what="queries times labels", param="queries")
        job = _Job(
            toolbox=self._toolbox,
            model=model,
            info=info,
            request=request,
            call=call,
            prompt=build_prompt(request),
            seed=draw_seed() if request.seed is None else request.seed,
        )
        return FewShotResult(
            id=call.context.request_id,
            model=model.name,
            data=tuple(await (job.generate_all() if labels is None else job.score_all(labels))),
            usage=call.usage,
            receipt=Receipt.of(info, job.seed),
        )


@dataclass(slots=True, eq=False, kw_only=True)
class _Job:
    """One request at work."""

    toolbox: Toolbox
    model: ServedModel
    info: ModelInfo
    request: FewShotRequest
    call: ActiveCall
    prompt: FewShotPrompt
    seed: int

    async def generate_all(self) -> list[FewShotAnswer]:
        """Generate an answer a query; with reasoning, the answer is the text after it."""
        texts = await _first_then_rest(self._seeded(self.request.queries), self._generate)
        return [FewShotAnswer(index=idx, text=text) for idx, text in enumerate(texts)]

    async def score_all(self, labels: Sequence[str]) -> list[FewShotAnswer]:
        """Score every label for every query."""

        async def score(query: SeededQuery) -> list[float]:
            return await self._score(query, labels)

        queries = list(self.request.queries)
        if self.request.calibrate:
            queries.append(CONTENT_FREE_QUERY)
        rows = await _first_then_rest(self._seeded(queries), score)
        content_free = rows.pop() if self.request.calibrate else None
        return [_labelled(idx, labels, row, content_free) for idx, row in enumerate(rows)]

    def _seeded(self, queries: Sequence[str]) -> list[SeededQuery]:
        return list(zip(queries, seeds_of(queries, self.seed), strict=True))

    async def _generate(self, query: SeededQuery) -> str:
        separator = self.prompt.separator
        stop = self.request.stop
        stops = (*((stop,) if isinstance(stop, str) else stop), *((separator,) if separator else ()))
        text, seed = query
        reasoning = await self._reason(query) if self.prompt.asks_reasoning else ""
        return (await self._continue(self.prompt.answer(text, reasoning), stops, seed)).strip()

    async def _reason(self, query: SeededQuery) -> str:
        """Let the model write its reasoning, up to where the template goes on to the output."""
        text, seed = query
        stops = tuple(stop for stop in (self.prompt.before_output, self.prompt.separator) if stop)
        return await self._continue(self.prompt.query(text), stops, seed)

    async def _continue(self, text: str, stops: tuple[str, ...], seed: int) -> str:
        # A space at a prompt's end is a token of its own in most vocabularies, after which words read wrongly.
        prompts = await self.toolbox.text_pool.run(
            self.call.deadline,
            encode_prompts,
            self.model.tokenizer,
            [text.rstrip(" ")],
            vocab_size=self.info.vocab_size,
            param="queries",
            with_text=False,
        )
        validation.check_length(len(prompts[0].token_ids), self.info, param="queries", generates=True)
        plan = GenerationPlan(
            prompts=prompts,
            params=SamplingParams(
                max_tokens=min(self.request.max_tokens, self.info.max_model_len),
                temperature=self.request.temperature,
                seed=seed,
            ),
            stop_texts=stops,
            cache_salt=cache_salt_of(self.call, ""),
        )
        generation = Generation(
            plan,
            tokenizer=self.model.tokenizer,
            in_flight=self.toolbox.open_flight(self.model, self.call),
            request_ids=self.toolbox.request_ids,
            deadline=self.call.deadline,
            times=self.toolbox.metrics.token_times(self.model.name),
        )
        parts: list[str] = []
        while pieces := await generation.next():
            parts += [piece.piece.text for piece in pieces]
        self._spend(generation.usage)
        return "".join(parts)

    async def _score(self, query: SeededQuery, labels: Sequence[str]) -> list[float]:
        reasoning = await self._reason(query) if self.prompt.asks_reasoning else ""
        text = self.prompt.answer(query[0], reasoning)
        tokens = await self.toolbox.text_pool.run(self.call.deadline, encode_labels, self.model.tokenizer, text, labels)
        for ids in tokens.token_ids:
            validation.check_length(len(ids), self.info, param="queries", generates=False)
        outputs = await self._run_labels(tokens)
        self._spend(
            Usage(
                prompt_tokens=sum(len(ids) for ids in tokens.token_ids),
                cached_tokens=sum(output.num_cached_tokens for output in outputs),
            )
        )
        return [label_logprob(output, len(ids), tokens.boundary) for ids, output in zip(tokens.token_ids, outputs, strict=True)]

    async def _run_labels(self, tokens: LabelTokens) -> list[SequenceOutput]:
        """Score the labels of one query, the first alone so that the others find the query in the cache."""
        in_flight = self.toolbox.open_flight(self.model, self.call)
        params = SamplingParams(max_tokens=0, temperature=0.0, prompt_logprobs=0, prompt_logprobs_start=tokens.boundary)
        place_by_id: dict[str, int] = {}
        found: dict[int, SequenceOutput] = {}
        while len(found) < len(tokens.token_ids):
            while len(place_by_id) < len(tokens.token_ids) and in_flight.num_open < (MAX_LABELS_AT_ONCE if found else 1):
                request_id = self.toolbox.request_ids.make()
                place = place_by_id[request_id] = len(place_by_id)
                in_flight.submit(
                    GenerationRequest(
                        request_id=request_id,
                        prompt_token_ids=tokens.token_ids[place],
                        params=params,
                        cache_salt=cache_salt_of(self.call, ""),
                    )
                )
            for output in await in_flight.take(self.call.deadline):
                assert isinstance(output, SequenceOutput), "a label was answered by a vector"
                raise_if_failed(output)
                found[place_by_id[output.request_id]] = output
        return [found[place] for place in range(len(tokens.token_ids))]

    def _spend(self, usage: Usage) -> None:
        before = self.call.usage
        self.call.usage = Usage(
            prompt_tokens=before.prompt_tokens + usage.prompt_tokens,
            cached_tokens=before.cached_tokens + usage.cached_tokens,
            completion_tokens=before.completion_tokens + usage.completion_tokens,
        )


def _labelled(idx: int, labels: Sequence[str], logprobs: Sequence[float], content_free: Sequence[float] | None) -> FewShotAnswer:
    probs = probabilities(logprobs, content_free)
    best = max(range(len(labels)), key=lambda place: probs[place])
    return FewShotAnswer(
        index=idx, text=labels[best], label=labels[best], score=probs[best], probs=tuple(zip(labels, probs, logprobs, strict=True))
    )


async def _first_then_rest(items: Sequence[SeededQuery], work: Callable[[SeededQuery], Awaitable[T]]) -> list[T]:
    """Do the first item alone and the others together, at most ``MAX_QUERIES_AT_ONCE`` at a time; the first error ends all."""
    results: dict[int, T] = {0: await work(items[0])}
    gate = asyncio.Semaphore(MAX_QUERIES_AT_ONCE)

    async def do(place: int) -> None:
        async with gate:
            results[place] = await work(items[place])

    tasks = [asyncio.ensure_future(do(place)) for place in range(1, len(items))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return [results[place] for place in range(len(items))]

"""Send random prompts to a server and time what comes back, on one event loop.

Closed loop: a number of callers, each with one request at a time. Open loop: requests start at random moments of a given
rate, however busy the server is. Every prompt is different, so that no cache answers; every output has full length.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from attendant_client import AsyncClient, AttendantError, RetryPolicy, Tls

STREAMS_PER_CONNECTION = 64
"""Servers commonly allow 100 streams a connection; further ones would wait in the client and be timed as the server's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to send: ``concurrency`` callers, or ``rate`` requests a second with no more than that many at a time."""

    model: str
    vocab_size: int
    num_requests: int
    concurrency: int
    prompt_tokens: int
    max_tokens: int
    rate: float | None = None
    seed: int = 0


@dataclass(slots=True, kw_only=True)
class RequestTimes:
    """Moments of one request on ``time.perf_counter``'s clock: its start, and each message with its number of tokens."""

    start_s: float
    messages: list[tuple[float, int]] = field(default_factory=list)
    end_s: float = 0.0
    num_prompt_tokens: int = 0
    error: str | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens received."""
        return sum(count for _, count in self.messages)

    @property
    def first_token_s(self) -> float:
        """Seconds until the first token."""
        return self.messages[0][0] - self.start_s

    @property
    def duration_s(self) -> float:
        """Seconds until the stream's last message."""
        return self.end_s - self.start_s

    @property
    def inter_token_s(self) -> list[float]:
        """Seconds before each token after the first message; tokens that came together share their wait."""
        waits: list[float] = []
        for (before_s, _), (now_s, count) in zip(self.messages, self.messages[1:], strict=False):
            waits += [(now_s - before_s) / count] * count
        return waits


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """All requests of one load and how long they took together, in seconds."""

    load: Load
    requests: Sequence[RequestTimes]
    duration_s: float


async def run_load(load: Load, url: str, api_key: str | None, on_done: Callable[[], None], tls: Tls | bool = False) -> LoadResult:
    """Send the load; ``on_done`` is called after each request. A request that fails is recorded, not raised."""
    draws = random.Random(load.seed)
    prompts = [[draws.randrange(load.vocab_size) for _ in range(load.prompt_tokens)] for _ in range(load.num_requests)]
    num_clients = -(-min(load.concurrency, load.num_requests) // STREAMS_PER_CONNECTION)
    clients = [AsyncClient(url, api_key=api_key, tls=tls, retry=RetryPolicy(max_attempts=1)) for _ in range(num_clients)]
    free = asyncio.Semaphore(load.concurrency)

    async def send(index: int) -> RequestTimes:
        try:
            return await _time_request(clients[index % num_clients], load, prompts[index])
        finally:
            free.release()
            on_done()

    try:
        # One call opens each connection, so that no request pays for it.
        await asyncio.gather(*(client.list_models() for client in clients))
        start_s = next_s = time.perf_counter()
        tasks = []
        for index in range(load.num_requests):
            if load.rate is not None:
                await asyncio.sleep(next_s - time.perf_counter())
                next_s += draws.expovariate(load.rate)
            await free.acquire()
            tasks.append(asyncio.create_task(send(index)))
        requests = await asyncio.gather(*tasks)
        return LoadResult(load=load, requests=requests, duration_s=time.perf_counter() - start_s)
    finally:
        await asyncio.gather(*(client.close() for client in clients))


async def _time_request(client: AsyncClient, load: Load, prompt: list[int]) -> RequestTimes:
    times = RequestTimes(start_s=time.perf_counter())
    try:
        async with client.stream_complete(load.model, prompt, max_tokens=load.max_tokens, temperature=0, ignore_eos=True) as stream:
            async for piece in stream:
                if piece.token_ids:
                    times.messages.append((time.perf_counter(), len(piece.token_ids)))
            times.num_prompt_tokens = stream.summary.usage.prompt_tokens
        if not times.messages:
            times.error = "The answer has no tokens."
    except AttendantError as error:
        times.error = error.message
    times.end_s = time.perf_counter()
    return times

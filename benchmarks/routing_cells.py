"""Replicas with real engines behind real links in one process, and a few-shot workload sent to them by one policy."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import quantiles

from attendant_engine.config import EngineConfig
from attendant_engine.engine import load_engine
from attendant_engine.types import EngineRequest, GenerationRequest, ModelInfo, PoolingRequest, SamplingParams, SequenceOutput
from attendant_server.gateway.admission import Deadline
from attendant_server.gateway.in_flight import InFlight
from attendant_server.gateway.replicas import ReplicaSet
from attendant_server.gateway.routing import Placement
from attendant_server.link.base import ReplicaLink
from attendant_server.link.client import LinkClient
from attendant_server.link.local import LocalLink
from attendant_server.link.server import LinkServer
from attendant_server.metrics import ReplicaMetrics
from benchmarks.routing_workload import BLOCK_SIZE, Workload

Chooser = Callable[[], ReplicaSet]
"""Says among which replicas the next request is routed."""

_TOKEN = "benchmark"


class LeastLoaded(ReplicaSet):
    """Routes by load alone: the router sees a request without a prefix."""

    def pick(self, request: EngineRequest, *, avoid: ReplicaLink | None = None, like: ModelInfo | None = None) -> Placement:
        """Return the replica with the least to do."""
        return super().pick(
            PoolingRequest(request_id=request.request_id, prompt_token_ids=request.prompt_token_ids, task="embedding"),
            avoid=avoid,
            like=like,
        )


def choosers(links: list[LinkClient]) -> dict[str, Chooser]:
    """Return the policies to be compared."""
    prefix, least = ReplicaSet("model", links), LeastLoaded("model", links)
    alone = [ReplicaSet("model", [link]) for link in links]
    draws = random.Random(0)
    return {"prefix and load": lambda: prefix, "least loaded": lambda: least, "random": lambda: draws.choice(alone)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """What one policy did on one number of replicas. Times in seconds."""

    num_cached_tokens: int
    first_token_s: tuple[float, ...]
    wall_s: float

    def first_token_ms(self, percent: int) -> float:
        """Return a percentile of the times to first token."""
        return 1000 * quantiles(self.first_token_s, n=100, method="inclusive")[percent - 1]


@asynccontextmanager
async def replicas(model: Path, count: int, *, kv_cache_bytes: int) -> AsyncIterator[list[LinkClient]]:
    """Start ``count`` engines of one thread each, and a link over a socket to every one."""
    config = EngineConfig(
        device="cpu",
        dtype="float32",
        num_torch_threads=1,
        kv_cache_memory_bytes=kv_cache_bytes,
        speculation="none",
        max_num_seqs=64,
        block_size=BLOCK_SIZE,
    )
    async with AsyncExitStack() as stack:
        links = []
        for idx in range(count):
            name = f"r{idx}"
            engine = LocalLink(
                partial(load_engine, model, "model", config), replica_id=name, metrics=ReplicaMetrics(model="model", replica=name)
            )
            engine.start()
            stack.push_async_callback(engine.close)
            await engine.wait_loaded()
            if not engine.is_ready:
                raise RuntimeError(engine.status)
            server = LinkServer(engine, token=_TOKEN)
            links.append(LinkClient(f"127.0.0.1:{await server.start('127.0.0.1')}", token=_TOKEN, replica_id=name))
            stack.push_async_callback(server.stop)
            stack.push_async_callback(links[-1].close)
        while not all(link.is_ready for link in links):
            await asyncio.sleep(0.01)
        yield links


async def run_cell(choose: Chooser, workload: Workload, *, num_callers: int, max_tokens: int) -> CellResult:
    """Send the workload by ``num_callers`` callers that each wait for their answer."""
    waiting = iter(enumerate(workload.prompts))
    cached: list[int] = []
    first_token_s: list[float] = []

    async def call() -> None:
        for number, prompt in waiting:
            num_cached, seconds = await _one(choose(), f"q{number}", prompt, max_tokens)
            cached.append(num_cached)
            first_token_s.append(seconds)

    started_s = time.monotonic()
    await asyncio.gather(*(call() for _ in range(num_callers)))
    return CellResult(num_cached_tokens=sum(cached), first_token_s=tuple(first_token_s), wall_s=time.monotonic() - started_s)


async def _one(among: ReplicaSet, request_id: str, prompt: tuple[int, ...], max_tokens: int) -> tuple[int, float]:
    """Return a request's cached tokens and its time to first token."""
    flight, deadline = InFlight(among), Deadline(callers_s=None, request_timeout_s=600.0)
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    started_s = time.monotonic()
    flight.submit(GenerationRequest(request_id=request_id, prompt_token_ids=prompt, params=params))
    num_cached, first_s = 0, 0.0
    while flight.num_open:
        for output in await flight.take(deadline):
            assert isinstance(output, SequenceOutput) and output.error is None, f"a request failed: {output}"
            first_s = first_s or time.monotonic() - started_s
            num_cached = max(num_cached, output.num_cached_tokens)
    flight.close()
    return num_cached, first_s

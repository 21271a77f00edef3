"""What the simulation is fed with, measured in the same run: an engine's step times, and what a link's messages cost.

The messages' costs are processor time of both ends together on one event loop, gRPC and a socket included.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from attendant_engine.config import EngineConfig
from attendant_engine.engine import Engine, load_engine
from attendant_engine.types import EngineRequest, GenerationRequest, ModelInfo, SamplingParams, SequenceOutput
from attendant_server.link.base import OutputSink, ReplicaLoad, ReplicaState
from attendant_server.link.client import LinkClient
from attendant_server.link.prefix_digest import PrefixDigest
from attendant_server.link.server import LinkServer

_PROMPT_TOKENS = 512
_NUM_STEPS = 24
_NUM_MESSAGES = 600
_TOKEN = "benchmark"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Seconds of prefill a token, and of a decode step: fixed, and for each sequence in it."""

    prefill_token_s: float
    decode_step_s: float
    decode_sequence_s: float

    def decode_s(self, num_sequences: int) -> float:
        """Return what a decode step takes."""
        return self.decode_step_s + self.decode_sequence_s * num_sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageCosts:
    """Processor seconds of both ends: a step message, each sequence in it, a heartbeat."""

    message_s: float
    sequence_s: float
    heartbeat_s: float


def measure_steps(model: Path) -> StepTimes:
    """Time an engine of this machine on one prompt, one sequence and many."""
    engine = load_engine(model, "model", EngineConfig(device="cpu", dtype="float32", max_num_seqs=64, speculation="none"))
    prefill_s = min(_prefill_s(engine, number) for number in range(3))
    one_s, many_s = _decode_step_s(engine, 1), _decode_step_s(engine, 32)
    a_sequence_s = max(0.0, (many_s - one_s) / 31)
    return StepTimes(prefill_token_s=prefill_s / _PROMPT_TOKENS, decode_step_s=one_s - a_sequence_s, decode_sequence_s=a_sequence_s)


def _prefill_s(engine: Engine, number: int) -> float:
    prompt = tuple((place * 7 + number) % 500 for place in range(_PROMPT_TOKENS))
    engine.add_request(
        GenerationRequest(request_id=f"p{number}", prompt_token_ids=prompt, params=SamplingParams(max_tokens=1, temperature=0.0))
    )
    started_s = time.monotonic()
    while engine.has_work:
        engine.step()
    return time.monotonic() - started_s


def _decode_step_s(engine: Engine, num_sequences: int) -> float:
    params = SamplingParams(max_tokens=_NUM_STEPS, temperature=0.0, ignore_eos=True)
    for number in range(num_sequences):
        engine.add_request(GenerationRequest(request_id=f"d{number}", prompt_token_ids=(number + 1, 2, 3), params=params))
    seconds = []
    while engine.has_work:
        seconds.append(engine.step().stats.step_s)
    return median(seconds[1:])


class _Emitter:
    """A replica without an engine that says one token for each of its requests when told to."""

    replica_id = "r0"
    is_ready = True
    status = "ready"
    state: ReplicaState = "ready"
    detail = ""
    load = ReplicaLoad(num_running=1)
    metrics_text = b""

    def __init__(self, info: ModelInfo) -> None:
        self.info: ModelInfo | None = info
        self.prefixes = PrefixDigest(16)
        self.sinks: dict[str, OutputSink] = {}

    def submit(self, request: EngineRequest, sink: OutputSink) -> None:
        """Take a request."""
        self.sinks[request.request_id] = sink

    def abort(self, request_id: str) -> None:
        """Forget a request."""
        self.sinks.pop(request_id, None)

    async def close(self) -> None:
        """Forget all."""
        self.sinks.clear()

    def step(self) -> None:
        """Say one token for every request."""
        for request_id, sink in self.sinks.items():
            sink(SequenceOutput(request_id=request_id, token_ids=(7,)))


async def measure_messages(info: ModelInfo) -> MessageCosts:
    """Send step messages of few and of many sequences, and heartbeats, over a socket."""
    few_s, many_s = [await _message_s(info, num_sequences) for num_sequences in (1, 65)]
    a_sequence_s = (many_s - few_s) / 64
    return MessageCosts(message_s=few_s - a_sequence_s, sequence_s=a_sequence_s, heartbeat_s=await _heartbeat_s(info))


async def _message_s(info: ModelInfo, num_sequences: int) -> float:
    emitter, got = _Emitter(info), asyncio.Event()
    server = LinkServer(emitter, token=_TOKEN, heartbeat_s=60.0)
    link = LinkClient(f"127.0.0.1:{await server.start('127.0.0.1')}", token=_TOKEN, replica_id="r0", heartbeat_limit_s=600.0)
    await _until_ready([link])
    for number in range(num_sequences):
        link.submit(GenerationRequest(request_id=f"q{number}", prompt_token_ids=(1,)), lambda _: got.set())
    while len(emitter.sinks) < num_sequences:
        await asyncio.sleep(0.001)
    seconds = []
    for _ in range(3):
        started_s = time.process_time()
        for _ in range(_NUM_MESSAGES):
            got.clear()
            emitter.step()
            await got.wait()
        seconds.append((time.process_time() - started_s) / _NUM_MESSAGES)
    await link.close()
    await server.stop()
    return min(seconds)


async def _heartbeat_s(info: ModelInfo) -> float:
    """Return the cost of a heartbeat that brings 16 keys, beside an idle loop's, which is nearly nothing."""
    emitter = _Emitter(info)
    server = LinkServer(emitter, token=_TOKEN, heartbeat_s=0.001)
    link = LinkClient(f"127.0.0.1:{await server.start('127.0.0.1')}", token=_TOKEN, replica_id="r0", heartbeat_limit_s=600.0)
    num_beats, told = 0, asyncio.Event()

    def beat(_: object) -> None:
        nonlocal num_beats
        num_beats += 1
        told.set()

    link.prefixes.watch(beat)
    await _until_ready([link])
    before, started_s = num_beats, time.process_time()
    while num_beats < before + _NUM_MESSAGES:
        told.clear()
        emitter.prefixes.update({num_beats * 16 + place: True for place in range(16)})
        await told.wait()
    seconds = (time.process_time() - started_s) / (num_beats - before)
    await link.close()
    await server.stop()
    return seconds


async def _until_ready(links: Sequence[LinkClient]) -> None:
    while not all(link.is_ready for link in links):
        await asyncio.sleep(0.001)

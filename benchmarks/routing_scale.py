"""How far routing and links carry: the simulation at growing numbers of replicas, and a gateway's processor time by its parts."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles

from attendant_engine.config import EngineConfig
from attendant_engine.engine import load_engine
from attendant_engine.machine import available_cores
from attendant_server.link.pacing import wait_s
from attendant_server.link.server import HEARTBEAT_S
from benchmarks.results_file import markdown_table
from benchmarks.routing_costs import MessageCosts, StepTimes, measure_messages, measure_steps
from benchmarks.routing_simulation import Simulation, SimulationResult
from benchmarks.routing_workload import FewShotSets

SET_TOKENS, QUERY_TOKENS, MAX_TOKENS = 512, 32, 128
NUM_GATEWAYS = 2
_REPLICAS = (10, 100, 1000)
_GATEWAYS = (4, 16, 64, 256, 1024)
_CLIENT_MESSAGE_S = 80e-6  # a streamed message through HAProxy and Serve's own server (the design's measurements)


def simulate_and_report(model: Path, *, num_sets: int, streams_each: int) -> list[str]:
    """Measure step times and message costs, simulate, and return the sections of the report."""
    steps = measure_steps(model)
    info = load_engine(model, "model", EngineConfig(device="cpu", dtype="float32")).info
    costs = asyncio.run(measure_messages(info))
    step_s = steps.decode_s(streams_each)
    results = {
        count: Simulation(
            num_replicas=count,
            num_gateways=NUM_GATEWAYS,
            prefill_token_s=steps.prefill_token_s,
            step_s=step_s,
            max_tokens=MAX_TOKENS,
        ).run(
            FewShotSets(num_sets=num_sets, set_tokens=SET_TOKENS, query_tokens=QUERY_TOKENS),
            num_requests=int(1.5 * count * streams_each),
            requests_per_s=count * streams_each / (MAX_TOKENS * step_s),
        )
        for count in _REPLICAS
    }
    largest = max(results)
    return [
        _about(steps, costs),
        markdown_table(
            (
                "replicas",
                "most streams",
                "of reusable tokens",
                "first token p50 ms",
                "p99 ms",
                "busiest / mean",
                "pick us",
                "keys a heartbeat",
            ),
            [_row(count, result, num_sets, int(1.5 * count * streams_each)) for count, result in results.items()],
        ),
        f"A gateway of {largest} replicas and {largest * streams_each} streams, in cores, by the number of gateways:",
        markdown_table(
            (
                "gateways",
                "messages/s",
                "streams a message",
                "messages",
                "streams' share",
                "heartbeats",
                "picks",
                "to clients",
                "all",
                "us/token",
            ),
            _gateway_rows(steps, costs, results[largest].pick_s, num_replicas=largest, streams_each=streams_each),
        ),
        "Every gateway has a link to every replica. With more gateways each has fewer streams at a replica, until a message carries one: "
        "from there on more gateways pay for more messages, and heartbeats cost each of them the same however many there are. That is "
        "where it bends; beyond it, a gateway is to have links to a part of the replicas only.",
    ]


def _about(steps: StepTimes, costs: MessageCosts) -> str:
    return (
        f"Measured: {1e6 * steps.prefill_token_s:.0f} us of prefill a token; a decode step {1e3 * steps.decode_step_s:.2f} ms and "
        f"{1e6 * steps.decode_sequence_s:.0f} us a sequence; a step message {1e6 * costs.message_s:.0f} us and "
        f"{1e6 * costs.sequence_s:.1f} us a sequence in it, a heartbeat {1e6 * costs.heartbeat_s:.0f} us (processor time of both ends). "
        f"Prompts of {SET_TOKENS} example and {QUERY_TOKENS} query tokens, {MAX_TOKENS} tokens generated, {NUM_GATEWAYS} gateways "
        f"simulated; a message to a client is taken as {1e6 * _CLIENT_MESSAGE_S:.0f} us."
    )


def _row(count: int, result: SimulationResult, num_sets: int, num_requests: int) -> list[str]:
    first = quantiles(result.first_token_s, n=100)
    reusable = (num_requests - num_sets) * SET_TOKENS
    return [
        str(count),
        str(result.most_streams),
        f"{result.num_cached_tokens / reusable:.3f}",
        f"{1e3 * first[49]:.0f}",
        f"{1e3 * first[98]:.0f}",
        f"{result.most_running / result.mean_most_running:.2f}",
        f"{1e6 * result.pick_s:.0f}",
        f"{result.keys_per_heartbeat:.1f}",
    ]


def _gateway_rows(steps: StepTimes, costs: MessageCosts, pick_s: float, *, num_replicas: int, streams_each: int) -> Sequence[Sequence[str]]:
    step_s = steps.decode_s(streams_each)
    messages_per_s = 1 / max(step_s, wait_s(streams_each, available_cores()))
    requests_per_s = num_replicas * streams_each / (MAX_TOKENS * step_s)
    rows = []
    for count in _GATEWAYS:
        num_streams = num_replicas * streams_each / count
        with_streams = num_replicas * (1 - (1 - 1 / count) ** streams_each)  # replicas that have a stream of this gateway
        messages = with_streams * messages_per_s
        parts = (
            messages * costs.message_s,
            num_streams * messages_per_s * costs.sequence_s,
            num_replicas / HEARTBEAT_S * costs.heartbeat_s,
            requests_per_s / count * pick_s,
            num_streams * messages_per_s * _CLIENT_MESSAGE_S,
        )
        tokens_per_s = num_streams / step_s
        rows.append(
            [
                str(count),
                f"{messages:.0f}",
                f"{num_streams / with_streams:.2f}",
                *(f"{part:.2f}" for part in parts),
                f"{sum(parts):.2f}",
                f"{1e6 * sum(parts) / tokens_per_s:.0f}",
            ]
        )
    return rows

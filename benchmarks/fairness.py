"""Two tenants, one flooding: what the other's time to first token is beside its value alone, and whose tokens are whose.

The quiet tenant sends one request after another, with pauses; the flood is as many callers as asked for, each with the
next request as soon as its last has ended. At the end, what the answers say was used is compared with the engine's count.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from attendant_client import AsyncClient, RetryPolicy
from benchmarks.checkpoints import GPT2_124M, GPT2_TINY, write_gpt2
from benchmarks.overload import quantile
from benchmarks.results_file import markdown_table, write_results
from benchmarks.servers import RunningServer, serve

_SHAPES = {"gpt2": GPT2_124M, "tiny": GPT2_TINY}
_KEYS = {"quiet": "quiet-benchmark-key", "flood": "flood-benchmark-key"}
_COUNTERS = {
    "prompt": "attendant_tenant_prompt_tokens_total",
    "cached": "attendant_tenant_cached_prompt_tokens_total",
    "generated": "attendant_tenant_generated_tokens_total",
}
_STREAMS_PER_CONNECTION = 64


class Tenant:
    """One tenant's callers, and what their answers said that they used."""

    def __init__(self, server: RunningServer, name: str, *, vocab_size: int, num_connections: int = 1) -> None:
        self.name = name
        self.used: Counter[str] = Counter()
        self.first_token_s: list[float] = []
        self._vocab_size = vocab_size
        self._dice = random.Random(name)
        retry = RetryPolicy(max_attempts=1)
        self._clients = [AsyncClient(server.grpc_url, api_key=_KEYS[name], retry=retry) for _ in range(num_connections)]

    async def ask(self, prompt_tokens: int, max_tokens: int, place: int = 0) -> None:
        """Stream one answer to its end; every prompt is different."""
        prompt = [self._dice.randrange(self._vocab_size - 1) for _ in range(prompt_tokens)]
        client = self._clients[place % len(self._clients)]
        started_s = time.perf_counter()
        first_s: float | None = None
        async with client.stream_complete("m", prompt, max_tokens=max_tokens, temperature=0, ignore_eos=True) as stream:
            async for piece in stream:
                if piece.token_ids and first_s is None:
                    first_s = time.perf_counter() - started_s
            usage = stream.summary.usage
        assert first_s is not None, "an answer has no tokens"
        self.first_token_s.append(first_s)
        self.used["prompt"] += usage.prompt_tokens - usage.cached_tokens
        self.used["cached"] += usage.cached_tokens
        self.used["generated"] += usage.completion_tokens

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(client.close() for client in self._clients))


async def ask_quietly(tenant: Tenant, arguments: argparse.Namespace) -> list[float]:
    """Ask as often as asked for, with random pauses, and return the times to first token."""
    tenant.first_token_s = []
    dice = random.Random(7)
    for _ in range(arguments.requests):
        await tenant.ask(arguments.quiet_prompt_tokens, arguments.quiet_max_tokens)
        await asyncio.sleep(dice.expovariate(1 / arguments.pause_s))
    return tenant.first_token_s


async def ask_beside_flood(quiet: Tenant, flood: Tenant, arguments: argparse.Namespace) -> list[float]:
    """Ask in the same way while the flood runs."""
    is_over = asyncio.Event()

    async def caller(place: int) -> None:
        while not is_over.is_set():
            await flood.ask(arguments.flood_prompt_tokens, arguments.flood_max_tokens, place)

    callers = [asyncio.create_task(caller(place)) for place in range(arguments.flood_callers)]
    try:
        await asyncio.sleep(arguments.settle_s)
        return await ask_quietly(quiet, arguments)
    finally:
        is_over.set()
        await asyncio.gather(*callers)


def counted(server: RunningServer) -> tuple[dict[str, Counter[str]], Counter[str]]:
    """Return the engine's count by tenant, and in all."""
    text = httpx.get(f"{server.http_url}/metrics", headers={"authorization": f"Bearer {_KEYS['quiet']}"}).raise_for_status().text
    by_tenant: dict[str, Counter[str]] = {name: Counter() for name in _KEYS}
    total: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            for kind, name in _COUNTERS.items():
                if sample.name == name:
                    by_tenant[sample.labels["tenant"]][kind] += round(sample.value)
                if sample.name == name.replace("_tenant_", "_"):
                    total[kind] += round(sample.value)
    return by_tenant, total


async def measure(server: RunningServer, vocab_size: int, arguments: argparse.Namespace) -> list[str]:
    """Run both parts and return the report's sections."""
    quiet = Tenant(server, "quiet", vocab_size=vocab_size)
    flood = Tenant(server, "flood", vocab_size=vocab_size, num_connections=-(-arguments.flood_callers // _STREAMS_PER_CONNECTION))
    for _ in range(3):
        await quiet.ask(arguments.quiet_prompt_tokens, arguments.quiet_max_tokens)
    alone = await ask_quietly(quiet, arguments)
    beside = await ask_beside_flood(quiet, flood, arguments)
    await asyncio.gather(quiet.close(), flood.close())
    rows = [
        [name, *(f"{1000 * quantile(values, share):.1f}" for share in (0.5, 0.95, 1.0))]
        for name, values in (("alone", alone), ("beside the flood", beside))
    ]
    ratio = quantile(beside, 0.95) / quantile(alone, 0.95)
    by_tenant, total = counted(server)
    usage = []
    for tenant in (quiet, flood):
        for kind in _COUNTERS:
            said, count = tenant.used[kind], by_tenant[tenant.name][kind]
            usage.append([tenant.name, kind, str(said), str(count), str(count - said)])
    sums = [[kind, str(sum(by_tenant[name][kind] for name in _KEYS)), str(total[kind])] for kind in _COUNTERS]
    return [
        markdown_table(["the quiet tenant's first token, ms", "p50", "p95", "most"], rows),
        f"p95 beside the flood over p95 alone: {ratio:.2f}. The flood had {len(flood.first_token_s)} answers.",
        markdown_table(["tenant", "tokens", "said the answers", "counted the engine", "difference"], usage),
        markdown_table(["tokens", "sum over tenants", "the engine in all"], sums),
    ]


def main() -> None:
    """Run and print the tables; with ``--write`` put them into ``benchmarks/results``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(_SHAPES), default="gpt2")
    parser.add_argument("--requests", type=int, default=200, help="of the quiet tenant, alone and again beside the flood")
    parser.add_argument("--pause-s", type=float, default=0.5, help="mean pause between two of them")
    parser.add_argument("--quiet-prompt-tokens", type=int, default=512)
    parser.add_argument("--quiet-max-tokens", type=int, default=8)
    parser.add_argument("--flood-callers", type=int, default=64)
    parser.add_argument("--flood-prompt-tokens", type=int, default=128)
    parser.add_argument("--flood-max-tokens", type=int, default=64)
    parser.add_argument("--settle-s", type=float, default=10.0, help="of the flood alone, before the quiet tenant comes")
    parser.add_argument("--seats", type=int, default=32)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    size = _SHAPES[arguments.model]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_gpt2(Path(folder) / "checkpoint", size)
        keys = Path(folder) / "keys"
        keys.write_text("".join(f"{tenant}: {key}\n" for tenant, key in _KEYS.items()))
        flags = ("--local", "--max-num-seqs", str(arguments.seats), "--api-key-file", str(keys), "--log-level", "warning")
        with serve(*flags, f"m={checkpoint}", log=Path(folder) / "server.log") as server:
            sections = asyncio.run(measure(server, size["vocab_size"], arguments))
    print("\n\n".join(sections))
    if arguments.write:
        command = f"python -m benchmarks.fairness --model {arguments.model} --requests {arguments.requests} --write"
        print("written to", write_results("fairness", command, sections).name)


if __name__ == "__main__":
    main()

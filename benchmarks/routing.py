"""What routing by cached prefix is worth: a few-shot workload at several numbers of replicas and policies.

    python -m benchmarks.routing [--write]              real engines, real links, one process
    python -m benchmarks.routing --simulate [--write]   many replicas in simulated time, by step times measured first

Share of prompt tokens that came from a cache, of what one replica with an endless cache would reuse; time to first token.
All replicas share this machine's cores, so times compare policies at one number of replicas, not numbers of replicas.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from benchmarks.checkpoints import write_gpt2
from benchmarks.results_file import markdown_table, write_results
from benchmarks.routing_cells import CellResult, choosers, replicas, run_cell
from benchmarks.routing_workload import Workload, few_shot

SHAPE = {"n_embd": 256, "n_layer": 6, "n_head": 8, "n_positions": 1024, "vocab_size": 512}
SET_TOKENS, QUERY_TOKENS, MAX_TOKENS = 512, 32, 8
CALLERS_A_REPLICA = 4
_TOKEN_BYTES = 2 * SHAPE["n_layer"] * SHAPE["n_embd"] * 4
_HEADING = ("replicas", "policy", "cached share", "of what can be reused", "first token p50 ms", "p95 ms", "requests/s")


def measure(model: Path, workload: Workload, num_replicas: int, *, cache_sets: int) -> list[tuple[str, CellResult]]:
    """Run every policy on fresh replicas; each replica's cache holds ``cache_sets`` sets and the callers' own tokens."""

    async def run(policy: str) -> CellResult:
        kv_cache_bytes = (cache_sets * SET_TOKENS + CALLERS_A_REPLICA * num_replicas * (SET_TOKENS + 64)) * _TOKEN_BYTES
        async with replicas(model, num_replicas, kv_cache_bytes=kv_cache_bytes) as links:
            return await run_cell(choosers(links)[policy], workload, num_callers=CALLERS_A_REPLICA * num_replicas, max_tokens=MAX_TOKENS)

    return [(policy, asyncio.run(run(policy))) for policy in ("prefix and load", "least loaded", "random")]


def report(workload: Workload, num_replicas: int, cells: list[tuple[str, CellResult]]) -> list[list[str]]:
    """Return the table's rows of one number of replicas."""
    reusable = workload.num_reusable_tokens()
    return [
        [
            str(num_replicas),
            policy,
            f"{cell.num_cached_tokens / workload.num_tokens:.3f}",
            f"{cell.num_cached_tokens / reusable:.3f}",
            f"{cell.first_token_ms(50):.1f}",
            f"{cell.first_token_ms(95):.1f}",
            f"{len(workload.prompts) / cell.wall_s:.1f}",
        ]
        for policy, cell in cells
    ]


def main() -> None:
    """Measure and print, and with ``--write`` keep the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--sets", type=int, default=20)
    parser.add_argument("--cache-sets", type=int, default=10, help="sets that one replica's cache holds")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--streams", type=int, default=100, help="of the simulation, a replica")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        model = write_gpt2(Path(directory) / "model", SHAPE)
        if arguments.simulate:
            from benchmarks.routing_scale import simulate_and_report

            name, sections = "routing-at-scale", simulate_and_report(model, num_sets=arguments.sets, streams_each=arguments.streams)
        else:
            name, sections = "routing", _compare(model, arguments)
    print("\n\n".join(sections))
    if arguments.write:
        flags = f" --simulate --streams {arguments.streams}" if arguments.simulate else f" --requests {arguments.requests}"
        print("written to", write_results(name, f"python -m benchmarks.routing{flags} --sets {arguments.sets}", sections).name)


def _compare(model: Path, arguments: argparse.Namespace) -> list[str]:
    workload = few_shot(num_sets=arguments.sets, num_requests=arguments.requests, set_tokens=SET_TOKENS, query_tokens=QUERY_TOKENS)
    rows = []
    for count in arguments.replicas:
        rows += report(workload, count, measure(model, workload, count, cache_sets=arguments.cache_sets))
    about = (
        f"{arguments.requests} prompts of {SET_TOKENS} example tokens (one of {arguments.sets} sets, by Zipf's law) and "
        f"{QUERY_TOKENS} query tokens, {MAX_TOKENS} tokens generated, {CALLERS_A_REPLICA} callers a replica; each replica's cache "
        f"holds {arguments.cache_sets} sets. GPT-2 of {SHAPE['n_layer']} layers, width {SHAPE['n_embd']}, one thread a replica, "
        "all replicas on the same cores."
    )
    return [about, markdown_table(_HEADING, rows)]


if __name__ == "__main__":
    main()

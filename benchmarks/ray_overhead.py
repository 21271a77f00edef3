"""What hosting on Ray Serve costs against one process: the same loads against both, interleaved, in one run.

Throughput at 64 streams and time to first token at one stream, on a GPT-2 of 124M random weights, where the engine
sets the pace, and on a tiny one, where everything else does. While one server is loaded the other is idle.
"""

import argparse
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.bench_command import run_bench
from benchmarks.checkpoints import GPT2_124M, GPT2_TINY, write_gpt2
from benchmarks.results_file import markdown_table, spread, write_results
from benchmarks.servers import RunningServer, serve


@dataclass(frozen=True, slots=True)
class Figures:
    """One way of hosting one model: tokens/s at 64 streams and first-token seconds at one, a value a repeat."""

    tokens_per_s: list[float] = field(default_factory=list)
    first_token_s: list[float] = field(default_factory=list)

    def measure(self, server: RunningServer, *, repeat: int, max_tokens: int) -> None:
        """Add one repeat."""
        throughput = run_bench(
            server.grpc_url, model="m", concurrency=64, num_requests=64, prompt_tokens=32, max_tokens=max_tokens, seed=repeat, warmup=1
        )
        latency = run_bench(
            server.grpc_url, model="m", concurrency=1, num_requests=8, prompt_tokens=32, max_tokens=4, seed=900 + repeat, warmup=1
        )
        self.tokens_per_s.append(throughput.tokens_per_s)
        self.first_token_s.append(latency.first_token_s)


def compare(name: str, shape: dict[str, int], *, repeats: int, max_tokens: int) -> tuple[list[str], list[str]]:
    """Measure one model both ways; return its row of the table and how long each way took to be ready."""
    local, ray = Figures(), Figures()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_gpt2(Path(folder) / "checkpoint", shape)
        with (
            serve("--local", f"m={checkpoint}", log=Path(folder) / "local.log") as local_server,
            serve(f"m={checkpoint}", log=Path(folder) / "ray.log") as ray_server,
        ):
            for repeat in range(repeats):
                local.measure(local_server, repeat=repeat, max_tokens=max_tokens)
                ray.measure(ray_server, repeat=repeat, max_tokens=max_tokens)
    ratios = [r / one for r, one in zip(ray.tokens_per_s, local.tokens_per_s, strict=True)]
    added_ms = [1000 * (r - one) for r, one in zip(ray.first_token_s, local.first_token_s, strict=True)]
    row = [name, spread(local.tokens_per_s), spread(ray.tokens_per_s), spread(ratios, 3)]
    row += [f"{1000 * median(local.first_token_s):.1f}", f"{1000 * median(ray.first_token_s):.1f}", spread(added_ms)]
    return row, [name, f"{local_server.ready_s:.1f}", f"{ray_server.ready_s:.1f}"]


def main() -> None:
    """Run and print the tables; write them to ``benchmarks/results``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=32)
    arguments = parser.parse_args()
    rows, readiness = [], []
    for name, shape in (("GPT-2 124M", GPT2_124M), ("GPT-2 tiny (2 layers, width 64)", GPT2_TINY)):
        row, ready = compare(name, shape, repeats=arguments.repeats, max_tokens=arguments.max_tokens)
        rows.append(row)
        readiness.append(ready)
    heading = [
        "model, float32",
        "local tokens/s at 64",
        "Ray tokens/s at 64",
        "Ray / local",
        "local first token ms",
        "Ray",
        "added ms",
    ]
    sections = [
        markdown_table(heading, rows),
        markdown_table(["model", "seconds to ready, local", "seconds to ready, Ray (the local server idle beside it)"], readiness),
    ]
    print("\n\n".join(sections))
    command = f"python -m benchmarks.ray_overhead --repeats {arguments.repeats} --max-tokens {arguments.max_tokens}"
    print("written to", write_results("ray-overhead", command, sections).name)


if __name__ == "__main__":
    main()

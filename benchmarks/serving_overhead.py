"""What serving costs on top of the engine: 64 gRPC streams on ``attendant serve --local`` beside the engine alone.

The same model, settings, prompts' lengths and number of requests, interleaved, in one run; the ratio is taken repeat by
repeat. The engine alone steps in this process; the server and ``attendant bench``, which reads the streams, share its
processors, as they do for a user of one machine, so the processor time of each is stated too.
"""

import argparse
import random
import resource
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from attendant_engine.config import EngineConfig
from attendant_engine.engine import Engine, load_engine
from attendant_engine.types import GenerationRequest, SamplingParams
from benchmarks.bench_command import run_bench
from benchmarks.checkpoints import GPT2_124M, GPT2_TINY, write_gpt2
from benchmarks.peers.machine import CpuClock
from benchmarks.results_file import markdown_table, spread, write_results
from benchmarks.servers import serve

CLASSES = {"float32": ("float32", "none"), "bfloat16": ("bfloat16", "none"), "int8": ("bfloat16", "int8")}
_SHAPES = {"gpt2": GPT2_124M, "tiny": GPT2_TINY}


@dataclass(slots=True)
class Figures:
    """A value a repeat: generated tokens a second of both, and processor seconds of server and client a second."""

    bare_per_s: list[float] = field(default_factory=list)
    served_per_s: list[float] = field(default_factory=list)
    server_cores: list[float] = field(default_factory=list)
    client_cores: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Served over bare, repeat by repeat."""
        return [served / bare for served, bare in zip(self.served_per_s, self.bare_per_s, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """As many requests as streams, all at once; lengths in tokens."""

    streams: int
    prompt_tokens: int
    max_tokens: int

    @property
    def cache_tokens(self) -> int:
        """Positions that the cache must hold, with two blocks of slack a sequence."""
        return self.streams * (self.prompt_tokens + self.max_tokens + 32)


def run_bare(engine: Engine, load: Load, vocab_size: int, seed: int) -> float:
    """Answer the load on the engine itself and return generated tokens a second."""
    rng = random.Random(seed)
    params = SamplingParams(max_tokens=load.max_tokens, temperature=0.0, ignore_eos=True)
    started_s = time.perf_counter()
    for index in range(load.streams):
        prompt = tuple(rng.randrange(vocab_size) for _ in range(load.prompt_tokens))
        engine.add_request(GenerationRequest(request_id=f"{seed} {index}", prompt_token_ids=prompt, params=params))
    num_tokens = 0
    while engine.has_work:
        num_tokens += engine.step().stats.num_generated_tokens
    assert num_tokens == load.streams * load.max_tokens, "the engine generated something else than was asked for"
    return num_tokens / (time.perf_counter() - started_s)


def run_served(url: str, pid: int, load: Load, seed: int, figures: Figures) -> None:
    """Answer the load through the server and add one repeat."""
    before, client_before_s = CpuClock.read(pid), _children_s()
    level = run_bench(
        url,
        model="m",
        concurrency=load.streams,
        num_requests=load.streams,
        prompt_tokens=load.prompt_tokens,
        max_tokens=load.max_tokens,
        seed=seed,
    )
    after = CpuClock.read(pid)
    duration_s = load.streams * load.max_tokens / level.tokens_per_s
    figures.served_per_s.append(level.tokens_per_s)
    figures.server_cores.append((after.process_s - before.process_s) / duration_s)
    figures.client_cores.append((_children_s() - client_before_s) / duration_s)


def measure(checkpoint: Path, vocab_size: int, name: str, arguments: argparse.Namespace, load: Load, token_elements: int) -> Figures:
    """Measure one class of precision both ways."""
    dtype, quantization = CLASSES[name]
    cache_bytes = load.cache_tokens * token_elements * (4 if dtype == "float32" else 2)
    config = EngineConfig(
        device="cpu",
        dtype=dtype,  # type: ignore[arg-type]
        quantization=quantization,  # type: ignore[arg-type]
        speculation=arguments.speculation,
        max_num_seqs=load.streams,
        kv_cache_memory_bytes=cache_bytes,
    )
    flags = ["--device", "cpu", "--dtype", dtype, "--quantization", quantization, "--speculation", arguments.speculation]
    flags += ["--max-num-seqs", str(load.streams), "--kv-cache-memory", str(cache_bytes)]
    figures = Figures()
    engine = load_engine(checkpoint, "m", config)
    with (
        tempfile.TemporaryDirectory() as folder,
        serve("--local", *flags, f"m={checkpoint}", log=Path(folder) / "server.log") as server,
    ):
        run_bare(engine, load, vocab_size, seed=-1)
        run_served(server.grpc_url, server.pid, load, seed=-1, figures=Figures())
        for repeat in range(arguments.repeats):
            figures.bare_per_s.append(run_bare(engine, load, vocab_size, seed=repeat))
            run_served(server.grpc_url, server.pid, load, seed=1000 + repeat, figures=figures)
            print(f"{name}: bare {figures.bare_per_s[-1]:.0f}, served {figures.served_per_s[-1]:.0f} tokens/s", flush=True)
    return figures


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Run and print the table; with ``--write``, write it to ``benchmarks/results``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=tuple(_SHAPES), default="gpt2")
    parser.add_argument("--classes", default=",".join(CLASSES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--speculation", choices=("none", "ngram"), default="none", help="guesses make random weights look fast")
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results")
    arguments = parser.parse_args()
    load = Load(streams=arguments.streams, prompt_tokens=arguments.prompt_tokens, max_tokens=arguments.max_tokens)
    shape = _SHAPES[arguments.model]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_gpt2(Path(folder) / "checkpoint", shape)
        for name in arguments.classes.split(","):
            figures = measure(checkpoint, shape["vocab_size"], name, arguments, load, 2 * shape["n_layer"] * shape["n_embd"])
            row = [f"{arguments.model}, {name}", spread(figures.bare_per_s, 0), spread(figures.served_per_s, 0), spread(figures.ratios, 3)]
            rows.append([*row, f"{median(figures.server_cores):.2f}", f"{median(figures.client_cores):.2f}"])
    heading = [f"{load.streams} streams", "engine alone, tokens/s", "served, tokens/s", "ratio", "server's cores", "client's cores"]
    table = markdown_table(heading, rows)
    print(table)
    if arguments.write:
        command = (
            f"python -m benchmarks.serving_overhead --model {arguments.model} --classes {arguments.classes} --repeats {arguments.repeats}"
        )
        command += f" --streams {load.streams} --prompt-tokens {load.prompt_tokens} --max-tokens {load.max_tokens}"
        print("written to", write_results("serving-overhead", command, [table]).name)


if __name__ == "__main__":
    main()

"""Peak memory of ``attendant serve --local`` for a GPT-2 124M in each class, against weights + planned cache + 400 MB.

``python -m benchmarks.memory`` writes ``benchmarks/results/DATE-memory.md``. The load fills the cache to its last block, so
that all that was planned is in memory; what torch's import alone takes is measured in the same run. MB are 10^6 bytes.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from attendant_engine.config import EngineConfig
from attendant_engine.plan import plan_model
from benchmarks.bench_command import run_bench
from benchmarks.checkpoints import GPT2_124M, write_gpt2
from benchmarks.results_file import markdown_table, write_results
from benchmarks.servers import serve

ALLOWANCE_BYTES = 400_000_000
_CACHE_BYTES = 256 << 20
_CLASSES: tuple[tuple[str, tuple[str, ...], EngineConfig], ...] = (
    ("float32", ("--dtype", "float32"), EngineConfig(dtype="float32")),
    ("bfloat16", ("--dtype", "bfloat16"), EngineConfig(dtype="bfloat16")),
    ("int8", ("--quantization", "int8"), EngineConfig(quantization="int8")),
    ("int4", ("--quantization", "int4"), EngineConfig(quantization="int4")),
)


def main() -> None:
    """Measure every class and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=48, help="requests of 128 + 128 tokens that fill the cache")
    arguments = parser.parse_args()
    torch_bytes = imported_bytes("torch")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_gpt2(Path(folder) / "gpt2-124m", GPT2_124M)
        for name, flags, config in _CLASSES:
            plan = plan_model(
                checkpoint, EngineConfig(dtype=config.dtype, quantization=config.quantization, kv_cache_memory_bytes=_CACHE_BYTES)
            )
            weight_bytes, cache_bytes = plan.weight_bytes, plan.kv_cache_bytes
            ready_bytes, peak_bytes = _serve(checkpoint, flags, Path(folder) / "server.log", arguments.requests)
            bound_bytes = weight_bytes + cache_bytes + ALLOWANCE_BYTES
            rows.append(
                [
                    name,
                    *(_megabytes(size) for size in (weight_bytes, cache_bytes, ready_bytes, peak_bytes, bound_bytes)),
                    _megabytes(peak_bytes - weight_bytes - cache_bytes),
                    "holds" if peak_bytes <= bound_bytes else "BROKEN",
                ]
            )
    heading = ["class", "weights", "planned cache", "peak when ready", "peak after the load", "bound", "beside weights and cache", ""]
    about = (
        f"`import torch` alone: {_megabytes(torch_bytes)} MB. All figures are megabytes (10^6 bytes); peaks are the kernel's VmHWM "
        f"of the whole server process. {arguments.requests} requests of 128 + 128 tokens, 16 at a time, and one of 1,000 tokens."
    )
    path = write_results("memory", f"python -m benchmarks.memory --requests {arguments.requests}", [about, markdown_table(heading, rows)])
    print(path.read_text())


def imported_bytes(module: str) -> int:
    """Return the peak memory of a process that imports ``module`` and ends."""
    script = f"import {module}; print(open('/proc/self/status').read())"
    return _peak_bytes(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


def _serve(checkpoint: Path, flags: tuple[str, ...], log: Path, num_requests: int) -> tuple[int, int]:
    """Return the server's peak when it is ready and after the load."""
    with serve("--local", f"gpt2={checkpoint}", "--kv-cache-memory", str(_CACHE_BYTES), *flags, log=log) as server:
        status = Path(f"/proc/{server.pid}/status")
        ready_bytes = _peak_bytes(status.read_text())
        for concurrency, requests, prompt_tokens, max_tokens in ((16, num_requests, 128, 128), (1, 1, 1000, 16)):
            run_bench(
                server.grpc_url,
                model="gpt2",
                concurrency=concurrency,
                num_requests=requests,
                prompt_tokens=prompt_tokens,
                max_tokens=max_tokens,
                seed=concurrency,
            )
        return ready_bytes, _peak_bytes(status.read_text())


def _peak_bytes(status: str) -> int:
    """Read the high-water mark of a process's resident memory from its ``status``."""
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f}"


if __name__ == "__main__":
    main()

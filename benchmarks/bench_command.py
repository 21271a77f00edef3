"""Call ``attendant bench`` the way a user does, and read its JSON."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One load's figures; times in seconds."""

    tokens_per_s: float
    first_token_s: float
    inter_token_s: float


def run_bench(
    grpc_url: str, *, model: str, concurrency: int, num_requests: int, prompt_tokens: int, max_tokens: int, seed: int, warmup: int = 0
) -> Level:
    """Send one load and return its figures (medians). Raises ``RuntimeError`` with the command's own words if a request failed."""
    arguments = {
        "--url": grpc_url,
        "--model": model,
        "--concurrency": concurrency,
        "--requests": num_requests,
        "--prompt-tokens": prompt_tokens,
        "--max-tokens": max_tokens,
        "--seed": seed,
        "--warmup": warmup,
    }
    command = [str(Path(sys.executable).with_name("attendant")), "bench", "--json"]
    command += [str(part) for pair in arguments.items() for part in pair]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise RuntimeError(f"attendant bench ended with code {finished.returncode}: {finished.stderr.strip()}")
    level = json.loads(finished.stdout)["levels"][0]
    return Level(
        tokens_per_s=level["generated_tokens_per_s"],
        first_token_s=level["time_to_first_token_s"]["p50"],
        inter_token_s=level["inter_token_latency_s"]["p50"],
    )

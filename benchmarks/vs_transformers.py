"""GPT-2 of 124M random weights in float32: ``attendant bench`` beside transformers' ``generate``, in one run.

Prompt 128, generate 128, greedy. transformers answers the requests one after another, as a script of a user would;
ours answers 1 and then 16 at a time. The loads are interleaved, each repeated, and the ratio is taken repeat by repeat.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.bench_command import run_bench
from benchmarks.checkpoints import GPT2_124M, write_gpt2
from benchmarks.results_file import markdown_table, spread, write_results
from benchmarks.servers import serve

PROMPT_TOKENS = 128
MAX_TOKENS = 128


class TransformersPeer:
    """The same checkpoint in transformers, on as many threads as torch takes by itself."""

    def __init__(self, checkpoint: Path) -> None:
        from transformers import GPT2LMHeadModel

        self._model = GPT2LMHeadModel.from_pretrained(checkpoint, dtype=torch.float32).eval()  # type: ignore[no-untyped-call]

    def tokens_per_s(self, num_requests: int, seed: int) -> float:
        """Answer ``num_requests`` prompts one after another."""
        draws = random.Random(seed)
        prompts = [torch.tensor([[draws.randrange(50256) for _ in range(PROMPT_TOKENS)]]) for _ in range(num_requests)]
        started_s = time.perf_counter()
        with torch.inference_mode():
            for prompt in prompts:
                self._model.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=MAX_TOKENS,
                    min_new_tokens=MAX_TOKENS,
                    do_sample=False,
                    pad_token_id=50256,
                )
        return num_requests * MAX_TOKENS / (time.perf_counter() - started_s)


def main() -> None:
    """Run and print the table; write it to ``benchmarks/results``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2, help="requests of transformers and of ours at one at a time, each repeat")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_gpt2(Path(folder) / "gpt2-124m", GPT2_124M)
        peer = TransformersPeer(checkpoint)
        peer.tokens_per_s(1, seed=-1)
        with serve("--local", f"gpt2={checkpoint}", log=Path(folder) / "server.log") as server:
            theirs: list[float] = []
            ours: dict[int, list[float]] = {1: [], 16: []}
            for repeat in range(arguments.repeats):
                theirs.append(peer.tokens_per_s(arguments.requests, seed=repeat))
                for concurrency, figures in ours.items():
                    level = run_bench(
                        server.grpc_url,
                        model="gpt2",
                        concurrency=concurrency,
                        num_requests=max(arguments.requests, concurrency),
                        prompt_tokens=PROMPT_TOKENS,
                        max_tokens=MAX_TOKENS,
                        seed=1000 * concurrency + repeat,
                    )
                    figures.append(level.tokens_per_s)
    rows = [["transformers, one after another", spread(theirs), "1"]]
    for concurrency, figures in ours.items():
        ratios = [figure / their for figure, their in zip(figures, theirs, strict=True)]
        rows.append([f"attendant bench, {concurrency} at a time", spread(figures), spread(ratios, 2)])
    table = markdown_table(["GPT-2 124M, float32", "tokens/s, median (least-greatest)", "ratio to transformers, pair by pair"], rows)
    command = f"python -m benchmarks.vs_transformers --repeats {arguments.repeats} --requests {arguments.requests}"
    print(table)
    print("written to", write_results("vs-transformers", command, [table]).name)


if __name__ == "__main__":
    main()

"""How cost grows with the work: a Llama type of about 125M at contexts of 128 to 8,192 and batches of 1 to 256, in one run.

Through the engine with its scheduler and paged cache. Levels are interleaved, each measured ``--repeats`` times with
fresh random prompts; no prefix is cached and nothing is guessed ahead, so every token is computed. A context is one
sequence's prompt; a batch's sequences have a prompt of 128 each. A decode step counts when all sequences take part.
"""

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from attendant_engine.config import EngineConfig
from attendant_engine.engine import Engine, load_engine
from attendant_engine.types import GenerationRequest, SamplingParams
from benchmarks.peers.environment import HOME
from benchmarks.peers.shapes import SHAPES
from benchmarks.peers.sources import write_source
from benchmarks.results_file import markdown_table, results_path, spread, write_results
from benchmarks.svg_plot import Series, write_plot

CONTEXTS = (128, 256, 512, 1024, 2048, 4096, 8192)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BATCH_PROMPT = 128
CLASSES = {
    "float32": ("float32", "none"),
    "bfloat16": ("bfloat16", "none"),
    "int8": ("bfloat16", "int8"),
    "int4": ("bfloat16", "int4"),
}
_FALL = 0.02  # less than this is a tie: the machine itself is not steadier
_BLOCK_SIZE = 16
_STEP_TOKENS = 4096  # so that the last of 256 prompts is done before the first of them has generated all it may


@dataclass(slots=True)
class Figures:
    """One level's repeats: prompt tokens a second until the first token, generated tokens a second afterwards."""

    prefill_per_s: list[float] = field(default_factory=list)
    decode_per_s: list[float] = field(default_factory=list)


class Load:
    """One engine and random prompts for it."""

    def __init__(self, checkpoint: Path, dtype: str, quantization: str, *, max_context: int, max_batch: int, new_tokens: int) -> None:
        shape = SHAPES["llama"]
        num_tokens = max(max_context + _BLOCK_SIZE, max_batch * (BATCH_PROMPT + new_tokens + 2 * _BLOCK_SIZE))
        token_bytes = 2 * shape.num_layers * shape.kv_width * (4 if dtype == "float32" else 2)
        config = EngineConfig(
            device="cpu",
            dtype=dtype,  # type: ignore[arg-type]
            quantization=quantization,  # type: ignore[arg-type]
            max_num_seqs=max_batch,
            max_batch_tokens=_STEP_TOKENS,
            block_size=_BLOCK_SIZE,
            kv_cache_memory_bytes=(num_tokens + _BLOCK_SIZE) * token_bytes,
            enable_prefix_caching=False,
            speculation="none",
        )
        self._engine: Engine = load_engine(checkpoint, "llama", config)
        self._vocab_size = shape.num_vocab
        self._rng = random.Random(0)
        self._num_requests = 0

    def measure(self, *, num_sequences: int, prompt_tokens: int, new_tokens: int, figures: Figures) -> None:
        """Compute ``num_sequences`` prompts and ``new_tokens`` behind each; add one repeat."""
        params = SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        for _ in range(num_sequences):
            self._num_requests += 1
            prompt = tuple(self._rng.randrange(self._vocab_size - 1) for _ in range(prompt_tokens))
            self._engine.add_request(GenerationRequest(request_id=str(self._num_requests), prompt_token_ids=prompt, params=params))
        started_s = time.perf_counter()
        prefilled_s, decode_s, num_prefilled, num_decode_steps = started_s, 0.0, 0, 0
        while self._engine.has_work:
            before_s = time.perf_counter()
            stats = self._engine.step().stats
            after_s = time.perf_counter()
            if stats.num_prompt_tokens > 0:
                num_prefilled, prefilled_s = num_prefilled + stats.num_prompt_tokens, after_s
            elif stats.num_sequences == num_sequences:
                decode_s, num_decode_steps = decode_s + after_s - before_s, num_decode_steps + 1
        assert num_prefilled == num_sequences * prompt_tokens and num_decode_steps > 0, "the cache was too small for the load"
        figures.prefill_per_s.append(num_prefilled / (prefilled_s - started_s))
        figures.decode_per_s.append(num_sequences * num_decode_steps / decode_s)


def falls(levels: Sequence[int], figures: dict[int, Figures]) -> list[str]:
    """Name the batches that decode fewer tokens a second than a smaller one, beyond a tie."""
    found, best, best_level = [], 0.0, levels[0]
    for level in levels:
        speed = median(figures[level].decode_per_s)
        if speed < best * (1 - _FALL):
            found.append(f"{level} sequences: {speed:.0f} tokens/s after {best:.0f} at {best_level}")
        if speed > best:
            best, best_level = speed, level
    return found


def run(name: str, arguments: argparse.Namespace, checkpoint: Path) -> tuple[dict[int, Figures], dict[int, Figures]]:
    """Measure one class of precision; return figures by context and by batch."""
    contexts = [context for context in CONTEXTS if context <= arguments.max_context]
    batches = [batch for batch in BATCHES if batch <= arguments.max_batch]
    dtype, quantization = CLASSES[name]
    new_tokens: int = arguments.new_tokens
    load = Load(checkpoint, dtype, quantization, max_context=contexts[-1], max_batch=batches[-1], new_tokens=new_tokens)
    load.measure(num_sequences=1, prompt_tokens=BATCH_PROMPT, new_tokens=4, figures=Figures())
    by_context: dict[int, Figures] = defaultdict(Figures)
    by_batch: dict[int, Figures] = defaultdict(Figures)
    for repeat in range(arguments.repeats):
        for context in contexts:
            load.measure(num_sequences=1, prompt_tokens=context - new_tokens, new_tokens=new_tokens, figures=by_context[context])
        for batch in batches:
            load.measure(num_sequences=batch, prompt_tokens=BATCH_PROMPT, new_tokens=new_tokens, figures=by_batch[batch])
        print(f"{name}: repeat {repeat + 1} of {arguments.repeats}", flush=True)
    return by_context, by_batch


def _context_table(name: str, figures: dict[int, Figures]) -> str:
    rows = []
    for context, figure in figures.items():
        step_ms = [1000 / speed for speed in figure.decode_per_s]
        rows.append([f"{context:,}", spread(figure.prefill_per_s, 0), spread(figure.decode_per_s), spread(step_ms, 2)])
    heading = [f"context, {name}, one sequence", "prompt tokens/s", "decode tokens/s", "ms a token"]
    return markdown_table(heading, rows)


def _batch_table(name: str, figures: dict[int, Figures]) -> str:
    one = median(figures[min(figures)].decode_per_s)
    rows = []
    for batch, figure in figures.items():
        speed = median(figure.decode_per_s)
        rows.append([str(batch), spread(figure.decode_per_s), f"{speed / one:.2f}", spread(figure.prefill_per_s, 0)])
    heading = [f"sequences, {name}, prompt {BATCH_PROMPT}", "decode tokens/s", "times one sequence", "prompt tokens/s"]
    return markdown_table(heading, rows)


def main() -> None:
    """Run, print the tables and what falls; with ``--write``, write tables and plots to ``benchmarks/results``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", default=",".join(CLASSES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--max-context", type=int, default=CONTEXTS[-1])
    parser.add_argument("--max-batch", type=int, default=BATCHES[-1])
    parser.add_argument("--write", action="store_true", help="write the tables and plots to benchmarks/results")
    arguments = parser.parse_args()
    checkpoint = write_source("llama", HOME / "models" / "llama" / "source")
    sections: list[str] = []
    context_lines: list[Series] = []
    batch_lines: list[Series] = []
    for name in arguments.classes.split(","):
        by_context, by_batch = run(name, arguments, checkpoint)
        found = falls(list(by_batch), by_batch)
        verdict = f"{name}: throughput never falls as the batch grows." if not found else f"{name}: throughput falls at " + "; ".join(found)
        sections += [_context_table(name, by_context), _batch_table(name, by_batch), verdict]
        context_lines.append(Series(name=name, points=tuple((x, 1000 / median(f.decode_per_s)) for x, f in by_context.items())))
        batch_lines.append(Series(name=name, points=tuple((x, median(f.decode_per_s)) for x, f in by_batch.items())))
    print("\n\n".join(sections))
    if arguments.write:
        command = f"python -m benchmarks.scaling --classes {arguments.classes} --repeats {arguments.repeats}"
        command += f" --new-tokens {arguments.new_tokens}"
        plots = []
        for kind, lines, x_label, y_label in (
            ("context", context_lines, "context, tokens", "ms a token, one sequence"),
            ("batch", batch_lines, "sequences", "decode tokens/s"),
        ):
            path = results_path("scaling").with_suffix(f".{kind}.svg")
            write_plot(path, lines, title=SHAPES["llama"].title, x_label=x_label, y_label=y_label)
            plots.append(f"![{y_label} by {x_label}]({path.name})")
        print("written to", write_results("scaling", command, [*plots, *sections]).name)


if __name__ == "__main__":
    main()

"""One engine in a process of its own: it loads once and then runs one repetition a command.

Commands and replies are lines of JSON over standard input and output. Libraries that print write to standard error:
the pipe's descriptor is taken away from them first. Run as ``python -m benchmarks.peers.worker MODULE THREADS`` in either
virtual environment, on as many processors as threads; stops when its input ends, and dies with its parent.
"""

import ctypes
import importlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, cast

from benchmarks.peers.cells import Cell, Load
from benchmarks.peers.engines.base import Answer, Decoder, Encoder, Meter, Setup, UnsupportedError

_PR_SET_PDEATHSIG = 1
NUM_CHECK_TOKENS = 8


def main() -> None:
    """Answer commands until the input ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[2])])
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    module = importlib.import_module(sys.argv[1])
    engine: Any = None
    num_vocab = 0
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if command["op"] == "load":
                setup = _setup(command)
                num_vocab = setup.num_vocab
                started_s = time.perf_counter()
                engine = module.load(setup)
                reply: dict[str, Any] = {"load_s": time.perf_counter() - started_s, "load_peak_bytes": peak_rss_bytes()}
                _reset_peak()
            elif command["op"] == "check":
                reply = {"check": _check(engine, command["kind"], num_vocab)}
            else:
                cell = Cell(**command["cell"])
                cpu_s, started_s = time.process_time(), time.perf_counter()
                reply = {"figures": _run(engine, cell, num_vocab, command["seed"])}
                reply |= {"wall_s": time.perf_counter() - started_s, "cpu_s": time.process_time() - cpu_s, "peak_bytes": peak_rss_bytes()}
        except UnsupportedError as error:
            reply = {"error": str(error), "unsupported": True}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"[:400], "unsupported": False}
        replies.write(json.dumps(reply) + "\n")


def peak_rss_bytes() -> int:
    """Return this process's highest resident size since it began or since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def decode_figures(answers: list[Answer], num_prompt_tokens: int, started_s: float) -> dict[str, float]:
    """Return what one load of a decoder shows.

    ``decode``: tokens a second from the moment at which every sequence had its first token; ``total``: all generated
    tokens over the whole time, prompts included; ``prefill``: prompt tokens over the time to the last first token;
    ``first_ms``, ``last_first_ms``: mean and greatest time to a first token.
    """
    firsts = [answer.at_s[0] for answer in answers]
    all_first_s, end_s = max(firsts), max(answer.at_s[-1] for answer in answers)
    num_after = sum(1 for answer in answers for at_s in answer.at_s if at_s > all_first_s)
    num_tokens = sum(len(answer.token_ids) for answer in answers)
    figures = {
        "total": num_tokens / (end_s - started_s),
        "prefill": num_prompt_tokens / (all_first_s - started_s),
        "first_ms": 1000 * (sum(firsts) / len(firsts) - started_s),
        "last_first_ms": 1000 * (all_first_s - started_s),
    }
    if num_after > 0:
        figures["decode"] = num_after / (end_s - all_first_s)
    return figures


def draw_prompts(num_prompts: int, num_tokens: int, num_vocab: int, seed: int) -> list[list[int]]:
    """Return fresh random prompts: the same for every engine, no two alike, so that no prefix cache helps."""
    draws = random.Random(seed)
    return [[draws.randrange(1000, num_vocab - 1000) for _ in range(num_tokens)] for _ in range(num_prompts)]


def _setup(command: dict[str, Any]) -> Setup:
    return Setup(
        model=command["model"],
        path=Path(command["path"]),
        precision=command["precision"],
        num_threads=command["num_threads"],
        load=Load(**command["load"]),
        num_vocab=command["num_vocab"],
    )


def _run(engine: Any, cell: Cell, num_vocab: int, seed: int) -> dict[str, float]:
    if cell.kind in ("bandwidth", "gemm"):
        return {"value": cast(Meter, engine).measure(cell.variant, cell.num_sequences)}
    prompts = draw_prompts(cell.num_sequences, cell.prompt_tokens, num_vocab, seed)
    if cell.kind == "encode":
        return {"value": _sentences_per_s(cast(Encoder, engine), prompts)}
    started_s = time.perf_counter()
    answers = cast(Decoder, engine).generate(prompts, cell.new_tokens)
    short = [len(answer.token_ids) for answer in answers if len(answer.token_ids) != cell.new_tokens]
    if short:
        raise RuntimeError(f"a sequence came back with {short[0]} tokens instead of {cell.new_tokens}")
    figures = decode_figures(answers, cell.num_sequences * cell.prompt_tokens, started_s)
    figures["value"] = figures[{"decode": "decode", "prefill": "prefill", "first_token": "first_ms"}[cell.kind]]
    return figures


def _sentences_per_s(encoder: Encoder, batch: list[list[int]]) -> float:
    """Encode the batch for about half a second."""
    num_done = 0
    started_s = time.perf_counter()
    while num_done == 0 or time.perf_counter() - started_s < 0.5:
        encoder.encode(batch)
        num_done += len(batch)
    return num_done / (time.perf_counter() - started_s)


def _check(engine: Any, kind: str, num_vocab: int) -> list[list[float]]:
    """Return the answer to a fixed load, for a comparison between engines: greedy tokens, or vectors."""
    if kind == "encode":
        vectors = cast(Encoder, engine).encode(draw_prompts(2, 32, num_vocab, 7))
        return [[float(x) for x in vector] for vector in (vectors.tolist() if hasattr(vectors, "tolist") else vectors)]
    answers = cast(Decoder, engine).generate(draw_prompts(2, 32, num_vocab, 7), NUM_CHECK_TOKENS)
    return [[float(token) for token in answer.token_ids] for answer in answers]


def _reset_peak() -> None:
    """Count the peak from here on, so that what serving takes is told apart from what loading took."""
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()

"""OpenVINO GenAI's continuous batching over its paged cache, with its own defaults for the cache's precision.

A step takes up to 2,048 tokens, so that all sequences decode together soon. Where only first tokens are wanted, requests
enter four at a time, as a smaller step would take them.
"""

import time
from typing import Any

import openvino as ov
import openvino_genai as genai

from benchmarks.peers.engines.base import NUM_TOGETHER, Answer, Setup

_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16", "int4": "bf16"}
_BLOCK_TOKENS = 32
_TOKENS_PER_STEP = 2048


class OpenVinoGenai:
    """One pipeline; every load is a set of requests added at once, and steps until all are answered."""

    def __init__(self, setup: Setup) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.max_num_seqs = max(setup.load.max_sequences, 16)
        scheduler.max_num_batched_tokens = _TOKENS_PER_STEP
        scheduler.num_kv_blocks = setup.load.total_tokens // _BLOCK_TOKENS + 2 * setup.load.max_sequences + 2
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[setup.precision],
            "INFERENCE_NUM_THREADS": setup.num_threads,
            "ENABLE_CPU_PINNING": False,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._pipeline = genai.ContinuousBatchingPipeline(str(setup.path), scheduler, "CPU", properties)
        self._num_requests = 0

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[Answer]:
        """Answer all prompts, which arrive at once."""
        wanted = genai.GenerationConfig(max_new_tokens=new_tokens, min_new_tokens=new_tokens, ignore_eos=True, do_sample=False)
        answers = [Answer() for _ in prompts]
        num_together = NUM_TOGETHER if new_tokens == 1 else len(prompts)
        for start in range(0, len(prompts), num_together):
            end = start + num_together
            self._answer(prompts[start:end], answers[start:end], wanted)
        return answers

    def _answer(self, prompts: list[list[int]], answers: list[Answer], wanted: Any) -> None:
        """Add the requests and step until all of them have ended."""
        pending: list[tuple[Answer, Any]] = []
        for prompt, answer in zip(prompts, answers, strict=True):
            self._num_requests += 1
            pending.append((answer, self._pipeline.add_request(self._num_requests, ov.Tensor([prompt]), wanted)))
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            now_s = time.perf_counter()
            for answer, handle in pending:
                while len(answer.token_ids) < wanted.max_new_tokens and handle.can_read():
                    for output in handle.read().values():
                        for token_id in output.generated_ids:
                            answer.add(token_id, now_s)


def load(setup: Setup) -> OpenVinoGenai:
    """Build the pipeline."""
    return OpenVinoGenai(setup)

"""CTranslate2's ``generate_batch`` with beams of one; a callback a token tells when each came."""

import json
import time
from typing import Any

import ctranslate2

from benchmarks.peers.engines.base import NUM_TOGETHER, Answer, Setup, UnsupportedError

COMPUTE_TYPES = {"float32": "float32", "int8": "int8"}


class Ctranslate2Decoder:
    """One generator on one worker."""

    def __init__(self, setup: Setup) -> None:
        self._generator = ctranslate2.Generator(
            str(setup.path), device="cpu", compute_type=compute_type(setup), inter_threads=1, intra_threads=setup.num_threads
        )
        self._vocabulary: list[str] = json.loads((setup.path / "vocabulary.json").read_text())

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[Answer]:
        """Answer all prompts, which arrive at once, as one batch, or as a few where only first tokens are wanted."""
        answers = [Answer() for _ in prompts]

        def note(result: Any) -> bool:
            answers[result.batch_id].add(result.token_id, time.perf_counter())
            return False

        self._generator.generate_batch(
            [[self._vocabulary[token] for token in prompt] for prompt in prompts],
            beam_size=1,
            sampling_topk=1,
            min_length=new_tokens,
            max_length=new_tokens,
            max_batch_size=NUM_TOGETHER if new_tokens == 1 else 0,
            include_prompt_in_result=False,
            callback=note,
        )
        return answers


def compute_type(setup: Setup) -> str:
    """Return CTranslate2's name for the class of precision."""
    name = COMPUTE_TYPES.get(setup.precision)
    if name is None:
        raise UnsupportedError(f"CTranslate2 has no {setup.precision} on a CPU")
    return name


def load(setup: Setup) -> Ctranslate2Decoder:
    """Load the model."""
    return Ctranslate2Decoder(setup)

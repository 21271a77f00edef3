"""On the CPU kernels a guess verified is the token that plain decoding says, with the bits of its log-probabilities."""

from pathlib import Path
from typing import Literal

import pytest

from attendant_engine.config import EngineConfig
from attendant_engine.engine import Engine, load_engine
from attendant_engine.kernels.cpu.library import load_library
from attendant_engine.types import GenerationRequest
from tests.engine.fakes import Collected, generation, run_all

pytestmark = pytest.mark.skipif(load_library() is None, reason="the CPU kernels are not built, or this processor lacks AVX2")

MODEL = Path(__file__).parents[2] / "models" / "stories260k"


def _load(
    speculation: Literal["none", "ngram"], dtype: Literal["float32", "bfloat16"], quantization: Literal["none", "int8"] = "none"
) -> Engine:
    config = EngineConfig(
        device="cpu",
        dtype=dtype,
        quantization=quantization,
        speculation=speculation,
        kv_cache_memory_bytes=(1 << 20) // (1 if dtype == "float32" else 2),
        max_batch_tokens=96,
    )
    return load_engine(MODEL, "stories", config)


def _requests() -> list[GenerationRequest]:
    """Some that repeat themselves, some drawn, some scored, and more than the cache holds at a time."""
    return [
        generation(
            str(i),
            tuple(3 + (i * k * k) % 500 for k in range(1, 3 + i % 40)) * (1 + i % 2),
            max_tokens=40 + i % 60,
            temperature=0.6 * (i % 3 == 2),
            seed=i,
            n=1 + (i % 5 == 4),
            logprobs=2 if i % 2 else None,
            stop_token_ids=(400 + i,),
            min_tokens=5 * (i % 3),
            ignore_eos=i % 4 != 0,
        )
        for i in range(14)
    ]


def _answers(collected: Collected) -> dict[tuple[str, int], object]:
    return {
        key: (
            collected.token_ids(*key),
            [entry for output in outputs for entry in output.logprobs or ()],
            outputs[-1].finish_reason,
            outputs[-1].stop_token_id,
        )
        for key, outputs in collected.by_sequence.items()
    }


@pytest.mark.parametrize(("dtype", "quantization"), [("float32", "none"), ("bfloat16", "none"), ("float32", "int8")])
def test_every_answer_has_the_bits_of_plain_decoding(dtype: Literal["float32", "bfloat16"], quantization: Literal["none", "int8"]) -> None:
    plain = run_all(_load("none", dtype, quantization), *_requests())
    for group in (1, 3, 14):  # alone it guesses most; together it meets preemption
        engine = _load("ngram", dtype, quantization)
        requests = _requests()
        guessed = Collected()
        for first in range(0, len(requests), group):
            part = run_all(engine, *requests[first : first + group])
            guessed.by_sequence |= part.by_sequence
            guessed.steps += part.steps
        assert _answers(guessed) == _answers(plain)
        assert guessed.num_preemptions > 0 if group == 14 else guessed.num_accepted_tokens > 0
    assert plain.num_accepted_tokens == 0

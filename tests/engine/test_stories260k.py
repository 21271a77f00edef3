"""The bundled real GPT says its known story, to the last token, whatever else the engine is doing."""

import json
from pathlib import Path

import pytest

from attendant_engine.config import EngineConfig
from attendant_engine.engine import Engine, load_engine
from attendant_engine.errors import CheckpointError
from attendant_engine.plan import plan_model
from attendant_engine.types import GenerationRequest
from tests.engine.fakes import generation, run_all

MODEL = Path(__file__).parents[2] / "models" / "stories260k"
STORY: list[int] = json.loads((Path(__file__).parents[1] / "data" / "stories260k" / "expected_greedy_ids.json").read_text())
BLOCK_BYTES = plan_model(MODEL, EngineConfig(device="cpu")).bytes_per_block


def _load(**config: int) -> Engine:
    return load_engine(MODEL, "stories", EngineConfig(device="cpu", **config))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Load once, with steps that take 64 prompts at a time; requests leave nothing behind but cached prefixes."""
    return _load(max_batch_tokens=2048)


def _others(count: int) -> list[GenerationRequest]:
    return [
        generation(
            f"other-{i}", tuple(3 + (i * k) % 500 for k in range(1, 2 + (i * 7) % 60)), max_tokens=(i * 11) % 80, temperature=float(i % 2)
        )
        for i in range(count)
    ]


def test_the_story_is_told_alone_with_a_cold_cache_and_a_hot_one(engine: Engine) -> None:
    engine.reset_prefix_cache()
    story = generation("a", (1,), max_tokens=len(STORY))
    assert run_all(engine, story).token_ids() == STORY
    half = len(STORY) // 2
    second_half = generation("a", (1, *STORY[:half]), max_tokens=len(STORY) - half)
    hot = run_all(engine, second_half)
    assert hot.by_sequence["a", 0][0].num_cached_tokens >= half - 16
    assert hot.token_ids() == STORY[half:]


def test_the_story_is_told_among_63_others(engine: Engine) -> None:
    others = _others(63)
    collected = run_all(engine, *others[:31], generation("a", (1,), max_tokens=len(STORY)), *others[31:])
    assert collected.token_ids() == STORY
    assert max(step.stats.num_sequences for step in collected.steps) == 64


def test_the_story_is_told_with_a_cache_so_small_that_it_is_preempted() -> None:
    engine = _load(kv_cache_memory_bytes=20 * BLOCK_BYTES)
    urgent = [generation(f"urgent-{i}", (1, 5 + i), max_tokens=60, priority=-1) for i in range(6)]
    engine.add_request(generation("a", (1,), max_tokens=len(STORY)))
    said = [token_id for _ in range(60) for output in engine.step().outputs for token_id in output.token_ids]  # type: ignore[union-attr]
    collected = run_all(engine, *urgent)
    assert collected.num_preemptions > 0
    assert said + collected.token_ids() == STORY


def test_the_story_is_told_in_small_chunks() -> None:
    half = len(STORY) // 2
    request = generation("a", (1, *STORY[:half]), max_tokens=len(STORY) - half)
    assert run_all(_load(max_batch_tokens=7), request).token_ids() == STORY[half:]


def test_a_loaded_engine_says_what_it_is_and_what_loading_took(engine: Engine) -> None:
    info, stats = engine.info, engine.load_stats
    assert (info.name, info.family, info.kind, info.dtype, info.device_kind) == ("stories", "llama", "decoder", "float32", "cpu")
    assert info.tasks == ("completion", "few-shot") and info.max_model_len == info.vocab_size == 512
    assert set(stats.phase_s) == {"config", "weights", "warmup", "self_check"} and all(seconds > 0 for seconds in stats.phase_s.values())
    assert stats.kv_cache_bytes == stats.num_blocks * BLOCK_BYTES


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load_engine(tmp_path, "nothing", EngineConfig(device="cpu"))

"""The self-check at load: it passes what is right in every class of numbers, and fails what is wrong with a sentence that says where."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attendant_engine.config import EngineConfig
from attendant_engine.engine import Engine, load_engine
from attendant_engine.errors import CheckpointError
from attendant_engine.kernels.cpu.library import load_library
from attendant_engine.models.base import ModelInputs
from attendant_engine.self_check.check import check_engine
from attendant_engine.self_check.record import FILE_NAME, read_record, write_record
from attendant_engine.self_check.reference import compute_record
from attendant_engine.worker import EngineWorker, WorkerState
from tests.engine.bit_equality.checkpoints import VOCAB_SIZE, write
from tests.engine.fakes import RAISING_ID, FakeTrunk, fake_engine, fake_model

MODELS = Path(__file__).parents[3] / "models"
TEXT = tuple((5 + 37 * place) % VOCAB_SIZE for place in range(40))
CONFIG = EngineConfig(device="cpu", dtype="float32", kv_cache_memory_bytes=4 << 20, max_batch_tokens=64)
native = pytest.mark.skipif(load_library() is None, reason="the CPU kernels are not built here")


def recorded(name: str, directory: Path) -> Path:
    path = write(name, directory / name)
    write_record(path, compute_record(path, TEXT), made_by="a test")
    return path


def change(path: Path, file_name: str, **values: Any) -> None:
    file = path / file_name
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def check(path: Path, config: EngineConfig = CONFIG) -> Engine:
    return load_engine(path, "m", config)


@pytest.mark.parametrize("backend", ["torch", pytest.param("native", marks=native)])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "bert-classifier"])
def test_a_right_model_is_found_to_be_right_and_its_prompt_cache_is_left_empty(name: str, backend: str, tmp_path: Path) -> None:
    engine = check(recorded(name, tmp_path), replace(CONFIG, attention_backend=backend))
    assert engine.self_check is not None and engine.self_check.difference is not None
    assert 0 < engine.self_check.difference < 1e-4
    assert engine.load_stats.phase_s["self_check"] > 0
    assert engine.step().stats.step_index == 0
    assert engine.num_requests == 0


@native
@pytest.mark.parametrize("model", ["stories260k", "attendant-minilm"])
@pytest.mark.parametrize(
    "numbers",
    [
        {"dtype": "bfloat16"},
        {"quantization": "int8"},
        {"quantization": "int4"},
        {"kv_cache_dtype": "int8"},
    ],
    ids=lambda numbers: "-".join(numbers.values()),
)
def test_the_bundled_models_pass_in_every_class_of_numbers(model: str, numbers: dict[str, Any]) -> None:
    found = check(MODELS / model, EngineConfig(device="cpu", kv_cache_memory_bytes=4 << 20, **numbers)).self_check
    assert found is not None and found.difference is not None
    assert 0 < found.difference < 0.8 * found.tolerance


@pytest.mark.parametrize("model", ["stories260k", "attendant-minilm"])
def test_the_bundled_records_are_what_the_reference_says_now(model: str) -> None:
    kept, now = read_record(MODELS / model), compute_record(MODELS / model)
    assert kept is not None
    assert (kept.digest, kept.token_ids, kept.tolerances) == (now.digest, now.token_ids, now.tolerances)
    for one, other in zip(kept.predictions, now.predictions, strict=True):
        assert (one.position, one.token_ids) == (other.position, other.token_ids)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    if kept.vector is not None and now.vector is not None:
        assert kept.vector.values == pytest.approx(now.vector.values, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rope_theta": 500.0}),
        ("gpt2", {"activation_function": "relu"}),
        ("bert", {"layer_norm_eps": 0.3}),
        ("bert-classifier", {"hidden_act": "relu"}),
    ],
)
def test_a_model_that_is_computed_otherwise_is_not_served(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    path = recorded(name, tmp_path)
    change(path, "config.json", **changes)
    with pytest.raises(CheckpointError) as refusal:
        check(path)
    where = "position" if name in ("llama", "gpt2") else "component"
    for words in ("self-check failed", where, "should", "0.001 is tolerated"):
        assert words in refusal.value.message
    assert str(tmp_path) not in refusal.value.message


def test_a_worker_whose_model_fails_its_check_says_so_and_never_was_ready(tmp_path: Path) -> None:
    path = recorded("gpt2", tmp_path)
    change(path, "config.json", activation_function="relu")
    states: list[WorkerState] = []
    ended = threading.Event()

    def on_state(state: WorkerState) -> None:
        states.append(state)
        ended.set()

    worker = EngineWorker(lambda: check(path), on_step=lambda _: None, on_state=on_state)
    worker.start()
    assert ended.wait(30)
    assert states == ["failed"]
    assert "self-check failed" in str(worker.load_error)


def test_weights_other_than_the_recorded_ones_are_named_as_such(tmp_path: Path) -> None:
    path = recorded("gpt2", tmp_path)
    (path / "model.safetensors").write_bytes((write("gpt2", tmp_path / "other", seed=1) / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"sha256.*damaged or were replaced"):
        check(path)


def test_a_record_may_widen_what_is_tolerated(tmp_path: Path) -> None:
    path = recorded("bert", tmp_path)
    change(path, "config.json", layer_norm_eps=0.01)
    with pytest.raises(CheckpointError):
        check(path)
    change(path, FILE_NAME, tolerances={"float32": 2.0})
    found = check(path).self_check
    assert found is not None and found.tolerance == 2.0


@pytest.mark.parametrize("name", ["gpt2", "bert"])
@pytest.mark.parametrize("max_model_len", [1, 2, 9, 33])
def test_a_context_shorter_than_the_record_is_checked_as_far_as_it_goes(name: str, max_model_len: int, tmp_path: Path) -> None:
    assert check(recorded(name, tmp_path), replace(CONFIG, max_model_len=max_model_len)).self_check is not None


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_without_a_record_there_is_nothing_to_differ_from(name: str, tmp_path: Path) -> None:
    found = check(write(name, tmp_path)).self_check
    assert found is not None and found.difference is None


class _MindsTheOthers(FakeTrunk):
    """Answers a little otherwise when others are in the step."""

    def __call__(self, inputs: ModelInputs) -> torch.Tensor:
        return super().__call__(inputs) + 0.001 * len(inputs.attention.query_lens)


class _NotFinite(FakeTrunk):
    def __call__(self, inputs: ModelInputs) -> torch.Tensor:
        return super().__call__(inputs) * float("nan")


def _engine(trunk: FakeTrunk, *, is_decoder: bool) -> Engine:
    engine = fake_engine(model=replace(fake_model(is_decoder=is_decoder), trunk=trunk))
    engine.info = replace(engine.info, vocab_size=RAISING_ID, tasks=("completion",) if is_decoder else ("embedding", "classification"))
    return engine


@pytest.mark.parametrize("is_decoder", [True, False])
def test_without_a_record_answers_that_depend_on_the_batch_are_found(is_decoder: bool, tmp_path: Path) -> None:
    check_engine(_engine(FakeTrunk(), is_decoder=is_decoder), tmp_path, classes=("float32",), has_same_bits=True)
    with pytest.raises(CheckpointError, match="beside other requests, where the same bits are promised"):
        check_engine(_engine(_MindsTheOthers(), is_decoder=is_decoder), tmp_path, classes=("float32",), has_same_bits=True)


@pytest.mark.parametrize("is_decoder", [True, False])
def test_without_a_record_answers_that_are_not_finite_are_found(is_decoder: bool, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not finite"):
        check_engine(_engine(_NotFinite(), is_decoder=is_decoder), tmp_path, classes=("float32",), has_same_bits=True)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"version": 2}, "version must be at most 1"),
        ({"token_ids": []}, "token_ids must be a list of 1 to 256"),
        ({"token_ids": [1] * 257}, "token_ids must be a list of 1 to 256"),
        ({"token_ids": [1, True]}, "token_ids must be a list"),
        ({"num_prompt_tokens": 1000}, "num_prompt_tokens must be at most"),
        ({"predictions": [{"position": 1, "token_ids": [1], "logprobs": []}]}, "logprobs must be a list of 1 finite"),
        ({"predictions": [{"position": 1, "token_ids": [1], "logprobs": [float("nan")]}]}, "logprobs must be a list of 1 finite"),
        ({"predictions": 3}, "predictions must be a list"),
        ({"predictions": []}, "needs predictions"),
        ({"tolerances": {"float3": 1}}, "float3"),
        ({"weights_sha256": None}, "weights_sha256 is missing"),
        ({"predictions": None, "vector": {"task": "x", "components": [0], "values": [1]}}, "task must be"),
        ({"predictions": None, "vector": {"task": "embedding", "components": [0], "values": [1]}}, "another kind"),
    ],
)
def test_a_wrong_record_is_one_sentence_that_names_the_file(values: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = recorded("gpt2", tmp_path)
    change(path, FILE_NAME, **values)
    with pytest.raises(CheckpointError) as refusal:
        check(path)
    assert FILE_NAME in refusal.value.message and words in refusal.value.message

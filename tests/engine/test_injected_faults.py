"""Faults on purpose: what they do to an engine, that they end their own request alone, and how often that one is tried."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from attendant_engine.config import EngineConfig
from attendant_engine.engine import load_engine
from attendant_engine.errors import CheckpointError, InvalidRequestError
from attendant_engine.fault_isolation import run_isolated
from attendant_engine.faults import Fault, parse_faults
from attendant_engine.models.base import ModelInputs
from attendant_engine.types import OutputError
from tests.engine.fakes import RAISING_ID, FakeTrunk, fake_engine, fake_model, generation, run_all

STORIES = Path(__file__).parents[2] / "models" / "stories260k"
POISON = 511
CONFIG = EngineConfig(device="cpu", kv_cache_memory_bytes=16 << 20)


@dataclass(frozen=True)
class _Item:
    request_id: str


@dataclass(frozen=True)
class _Result:
    item: _Item
    error: OutputError | None = None


_FAILED = OutputError(code="server_error", message="failed")


class _Step:
    """Runs items unless there are too many at a time, or one of them is bad; counts how often each was tried."""

    def __init__(self, *, most: int = 1000, bad: str = "", error: type[Exception] = RuntimeError) -> None:
        self._most, self._bad, self._error = most, bad, error
        self.tried: list[list[str]] = []

    def __call__(self, items: Sequence[_Item]) -> list[_Result]:
        names = [item.request_id for item in items]
        self.tried.append(names)
        if len(items) > self._most or self._bad in names:
            raise self._error("no")
        return [_Result(item) for item in items]


def _fail(item: _Item) -> _Result:
    return _Result(item, _FAILED)


def test_what_breaks_a_step_is_tried_once_more_and_alone() -> None:
    step = _Step(bad="r5")
    results = run_isolated([_Item(f"r{number}") for number in range(9)], step, _fail)
    assert [result.item.request_id for result in results if result.error] == ["r5"]
    assert [names for names in step.tried if "r5" in names] == [[f"r{number}" for number in range(9)], ["r5"]]


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_where_memory_is_short_fewer_run_at_a_time_and_nobody_is_to_blame(error: type[Exception]) -> None:
    step = _Step(most=3, error=error)
    results = run_isolated([_Item(f"r{number}") for number in range(12)], step, _fail)
    assert [result.item.request_id for result in results] == [f"r{number}" for number in range(12)]
    assert all(result.error is None for result in results)
    assert [len(names) for names in step.tried] == [12, 6, 3, 3, 6, 3, 3]


def test_a_request_that_raises_is_read_by_two_steps_in_all() -> None:
    seen: list[int] = []

    class Counting(FakeTrunk):
        def __call__(self, inputs: ModelInputs) -> torch.Tensor:
            if bool((inputs.token_ids == RAISING_ID).any()):
                seen.append(len(inputs.token_ids))
            return super().__call__(inputs)

    engine = fake_engine(model=replace(fake_model(), trunk=Counting()))
    good = [generation(f"good-{number}", (2, 3, number + 4), max_tokens=4) for number in range(6)]
    assert run_all(engine, *good, generation("bad", (5, RAISING_ID), max_tokens=4)).last("bad").finish_reason == "error"
    assert seen == [20, 2]


@pytest.mark.parametrize("kind", ["raise", "memory", "nan"])
@pytest.mark.parametrize("speculation", ["none", "ngram"])
def test_a_faulty_step_ends_the_request_that_asked_for_it_and_no_other(kind: str, speculation: str) -> None:
    config = replace(CONFIG, speculation=speculation)  # type: ignore[arg-type]
    good = [generation(f"good-{number}", (1, 300 + number), max_tokens=20, temperature=number % 2, seed=number) for number in range(5)]
    quiet = run_all(load_engine(STORIES, "m", config), *good)
    engine = load_engine(STORIES, "m", replace(config, faults=f"step:{kind}:{POISON}"))
    faulty = run_all(engine, *good[:2], generation("bad", (1, POISON, 7), max_tokens=5), *good[2:])
    assert faulty.last("bad").error is not None
    for request in good:
        assert faulty.token_ids(request.request_id) == quiet.token_ids(request.request_id)


def test_a_load_can_be_made_to_fail() -> None:
    with pytest.raises(CheckpointError, match="asked for"):
        load_engine(STORIES, "m", replace(CONFIG, faults="load:raise"))


def test_a_plan_is_read_or_refused() -> None:
    assert parse_faults("load:hang, step:kill:3") == (Fault(phase="load", kind="hang"), Fault(phase="step", kind="kill", token_id=3))
    assert parse_faults("") == ()
    for text in ("step:raise", "link:cut", "load:raise:3", "load:nan", "step:burn:3", "step:raise:x", "what"):
        with pytest.raises(InvalidRequestError, match="write load:KIND or PHASE:KIND:TOKEN_ID"):
            parse_faults(text)

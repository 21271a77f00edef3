"""Tables compare with the best peer that answers the same question, round by round, and never leave an engine out."""

import pytest

from benchmarks.peers import report
from benchmarks.peers.cells import Cell
from benchmarks.peers.registry import OURS
from benchmarks.peers.results import CellResult, EngineResult, Group, Repetition

ENCODE = Cell(kind="encode", num_sequences=1, prompt_tokens=32)
ARRIVALS = Cell(kind="first_token", num_sequences=16, prompt_tokens=128, new_tokens=1)


def measured(cell: Cell, values: list[float], *, disturbed: tuple[int, ...] = ()) -> CellResult:
    repetitions = [
        Repetition(round_index=index, figures={"value": value}, foreign_ratio=0.5 if index in disturbed else 0.0)
        for index, value in enumerate(values)
    ]
    return CellResult(cell, repetitions)


def engine(name: str, result: CellResult, agreement: float | None = None) -> EngineResult:
    return EngineResult(name, name, cells=[result], agreement=agreement, load_s=1.0)


def test_ratios_pair_the_rounds_and_are_above_one_where_ours_is_better() -> None:
    ours, theirs = measured(ENCODE, [30.0, 10.0]), measured(ENCODE, [10.0, 5.0])
    assert report.ratios(ours, theirs) == [3.0, 2.0]
    assert report.ratios(measured(ARRIVALS, [50.0]), measured(ARRIVALS, [100.0]), is_lower_better=True) == [2.0]


def test_disturbed_repetitions_do_not_count_while_half_are_quiet() -> None:
    assert measured(ENCODE, [1.0, 9.0, 1.0], disturbed=(1,)).values() == [1.0, 1.0]
    assert measured(ENCODE, [1.0, 9.0, 9.0], disturbed=(1, 2)).values() == [1.0, 9.0, 9.0]


def test_a_peer_measured_in_other_rounds_is_compared_by_medians() -> None:
    theirs = CellResult(ENCODE, [Repetition(round_index=7, figures={"value": 4.0}, foreign_ratio=0.0)])
    assert report.ratios(measured(ENCODE, [8.0, 8.0]), theirs) == [2.0]


@pytest.mark.parametrize(("agreement", "best"), [(0.8, "slow"), (0.999, "fast")])
def test_an_encoder_with_other_vectors_is_no_contender(agreement: float, best: str) -> None:
    engines = [
        engine(OURS, measured(ENCODE, [4.0])),
        engine("fast", measured(ENCODE, [9.0]), agreement),
        engine("slow", measured(ENCODE, [2.0]), 1.0),
    ]
    group = Group(model="minilm", precision="int8", cells=[ENCODE], engines=engines, roofline=EngineResult("roofline", "this machine"))
    peer = report.best_peer(group, ENCODE)
    assert peer is not None and peer.name == best
    assert ("other answer" in "\n".join(report.sections(group))) is (best == "slow")


def test_the_best_time_is_the_least() -> None:
    engines = [engine("late", measured(ARRIVALS, [9.0])), engine("early", measured(ARRIVALS, [2.0]))]
    group = Group(model="gpt2", precision="int8", cells=[ARRIVALS], engines=engines, roofline=EngineResult("roofline", "this machine"))
    peer = report.best_peer(group, ARRIVALS, is_lower_better=True)
    assert peer is not None and peer.name == "early"

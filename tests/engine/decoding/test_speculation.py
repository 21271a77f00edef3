"""Guesses are made as long as they pay, by what they were seen to cost and to save."""

from attendant_engine.decoding.speculation import MAX_ROWS, Speculator
from attendant_engine.sequence import GenerationState, Sequence
from tests.engine.fakes import generation


def _sequence(text: tuple[int, ...] = (1, 2, 3) * 10, max_tokens: int = 1000) -> Sequence:
    request = generation("a", text, max_tokens=max_tokens)
    return Sequence(GenerationState(request=request, arrival=0, arrival_s=0.0, seed=0, max_tokens=max_tokens, stop_ids=frozenset()), 0)


def _num_drafts(speculator: Speculator, sequences: list[Sequence], *, step_s: float, row_s: float, accepts: bool) -> int:
    """Let one step happen."""
    proposals = speculator.propose(sequences, 1000)
    num_drafts = sum(map(len, proposals.values()))
    for sequence, drafts in proposals.items():
        speculator.note_accepted(sequence, len(drafts), len(drafts) if accepts else 0)
    speculator.note_step(step_s + row_s * num_drafts, len(sequences), num_drafts)
    return num_drafts


def test_guesses_that_keep_failing_are_made_ever_more_rarely() -> None:
    speculator, sequence = Speculator(), _sequence()
    drafts = [_num_drafts(speculator, [sequence], step_s=1.0, row_s=0.03, accepts=False) for _ in range(1000)]
    assert 0 < sum(drafts[:100]) < 30
    assert 0 < sum(drafts[500:]) < 10, "they are tried again now and then, at the cost of a row"


def test_guesses_that_keep_being_right_grow_to_a_tile_of_rows() -> None:
    speculator, sequence = Speculator(), _sequence()
    drafts = [_num_drafts(speculator, [sequence], step_s=1.0, row_s=0.01, accepts=True) for _ in range(20)]
    assert 0 < drafts[0] < 15 and drafts[-1] == 15


def test_no_guess_is_made_where_a_row_costs_what_it_can_save() -> None:
    speculator = Speculator()
    sequences = [_sequence() for _ in range(4)]
    drafts = [_num_drafts(speculator, sequences, step_s=1.0, row_s=0.25, accepts=True) for _ in range(200)]
    assert sum(drafts[:20]) > 0 and drafts[100:].count(0) > 95


def test_many_sequences_guess_only_where_rows_were_seen_to_be_cheap() -> None:
    sequences = [_sequence() for _ in range(MAX_ROWS - 4)]
    assert Speculator().propose(sequences, 1000) == {}
    few = [_sequence() for _ in range(4)]
    speculator = Speculator()
    for _ in range(100):
        assert _num_drafts(speculator, few, step_s=1.0, row_s=0.0, accepts=True) <= MAX_ROWS - 4


def test_a_step_without_guesses_comes_often_enough_to_measure_by() -> None:
    speculator, sequence = Speculator(), _sequence()
    drafts = [_num_drafts(speculator, [sequence], step_s=1.0, row_s=0.01, accepts=True) for _ in range(200)]
    assert 2 <= drafts.count(0) <= 5


def test_no_more_is_guessed_than_may_be_said_or_computed() -> None:
    sequence = _sequence(max_tokens=3)
    assert len(Speculator().propose([sequence], 1000)[sequence]) == 2
    assert Speculator().propose([sequence], 0) == {}
    assert len(Speculator().propose([sequence], 1)[sequence]) == 1

"""Decides how many guessed tokens a decode step verifies, so that on the whole they save time (Leviathan et al. 2023).

A step of few rows is bound by reading the weights, so a few rows more cost little and each guess that is right saves a
step. What a row more costs is measured, how often a sequence's guesses are right is counted, and a guess is made only
where its chance outweighs its cost. A sequence whose guesses keep failing is left alone for ever longer.
"""

import sys
from collections.abc import Iterable, Sequence

from attendant_engine.decoding.logits_processors import can_look_ahead
from attendant_engine.decoding.ngram import NgramTable
from attendant_engine.sequence import Sequence as EngineSequence

MAX_ROWS = 32
"""Rows of a step with guesses; beyond, products are bound by arithmetic on any machine and a guess costs what it saves."""

_MAX_DRAFTS = 15  # of one sequence: with its own token a whole tile of 16 rows
_ROW_COST = 0.03  # share of a step that a row more takes, until measured: 0.02 to 0.03 on two cores of an AMD Zen 5
_MARGIN = 1.5  # a guess has to promise this many times its cost
_DECAY = 0.8  # weight of a sequence's past against its latest guesses
_SMOOTHING = 0.1  # weight of the latest step against earlier measurements
_FORGETTING = 0.002  # weight of the prior, at each step without guesses
_MAX_STEPS_UNMEASURED = 64  # steps with guesses in a row before one without shows again what that takes
_MIN_PAUSE = 8  # steps; doubles with each pause until a guess is right
_MAX_PAUSE = 128


class _Drafter:
    """One sequence's table and its record: ``num_right`` and ``num_wrong`` guesses, the older the less they weigh."""

    __slots__ = ("num_pauses", "num_right", "num_wrong", "pause", "table")

    def __init__(self) -> None:
        self.table = NgramTable()
        self.num_right = 1.0
        self.num_wrong = 1.0
        self.num_pauses = 0
        self.pause = 0

    def num_worthwhile(self, least_chance: float) -> int:
        """Return how many guesses in a row have at least ``least_chance`` to be right up to the last."""
        chance = rate = self.num_right / (self.num_right + self.num_wrong)
        count = 0
        while count < _MAX_DRAFTS and chance > least_chance:
            chance *= rate
            count += 1
        return count

    def note(self, num_drafts: int, num_accepted: int, least_chance: float) -> None:
        """Take in what became of the latest guesses; pause where one alone has not ``least_chance``."""
        self.num_right = _DECAY * self.num_right + num_accepted
        self.num_wrong = _DECAY * self.num_wrong + (num_accepted < num_drafts)
        if num_accepted > 0:
            self.num_pauses = 0
        if self.num_worthwhile(least_chance) == 0:
            self.pause = min(_MIN_PAUSE << self.num_pauses, _MAX_PAUSE)
            self.num_pauses += 1


class Speculator:
    """The guesses of all sequences of an engine, and the cost of verifying them."""

    def __init__(self) -> None:
        self._drafters: dict[EngineSequence, _Drafter] = {}
        self._plain_s: dict[int, float] = {}  # a step without guesses, by its number of sequences
        self._row_cost: dict[int, float] = {}  # likewise
        self._num_unmeasured = 0
        self._least_chance = 1.0  # of the latest step's guesses to be right, for one to be worth its row

    def propose(self, sequences: Sequence[EngineSequence], max_drafts: int) -> dict[EngineSequence, tuple[int, ...]]:
        """Return guesses for some of ``sequences``, which all decode, ``max_drafts`` at most in all."""
        num_sequences = len(sequences)
        self._least_chance = _MARGIN * num_sequences * self._row_cost.get(num_sequences, _ROW_COST)
        budget = min(max_drafts, MAX_ROWS - num_sequences)
        if budget <= 0 or self._least_chance >= 1.0 or self._num_unmeasured >= _MAX_STEPS_UNMEASURED:
            return {}
        share = max(1, budget // num_sequences)
        proposals: dict[EngineSequence, tuple[int, ...]] = {}
        for sequence in sequences:
            guesses = self._guess(sequence, min(share, budget), self._least_chance)
            if guesses:
                proposals[sequence] = guesses
                budget -= len(guesses)
        return proposals

    def note_accepted(self, sequence: EngineSequence, num_drafts: int, num_accepted: int) -> None:
        """Take in how many of a sequence's guesses were right."""
        self._drafters[sequence].note(num_drafts, num_accepted, self._least_chance)

    def give_up(self, sequence: EngineSequence) -> None:
        """Never guess for ``sequence`` again."""
        self._drafters[sequence].pause = sys.maxsize

    def note_step(self, step_s: float, num_sequences: int, num_drafts: int) -> None:
        """Take in how long the model took over a step of decodes alone."""
        plain_s = self._plain_s.get(num_sequences)
        if num_drafts == 0:
            self._num_unmeasured = 0
            # One disturbed step must not look like what steps take.
            latest_s = step_s if plain_s is None else min(step_s, 1.5 * plain_s)
            self._plain_s[num_sequences] = latest_s if plain_s is None else plain_s + _SMOOTHING * (latest_s - plain_s)
            if num_sequences in self._row_cost:  # what was measured may have been a disturbance
                self._row_cost[num_sequences] += _FORGETTING * (_ROW_COST - self._row_cost[num_sequences])
            return
        self._num_unmeasured += 1
        if plain_s is not None:
            before = self._row_cost.get(num_sequences, _ROW_COST)
            latest = min(max((step_s / plain_s - 1.0) / num_drafts, 0.0), 3.0 * before + 0.01)
            self._row_cost[num_sequences] = before + _SMOOTHING * (latest - before)

    def forget(self, sequence: EngineSequence) -> None:
        """Drop what is known of a sequence that has ended."""
        self._drafters.pop(sequence, None)

    def _guess(self, sequence: EngineSequence, max_drafts: int, least_chance: float) -> tuple[int, ...]:
        if max_drafts <= 0 or not can_look_ahead(sequence):
            return ()
        drafter = self._drafters.get(sequence)
        if drafter is None:
            drafter = self._drafters[sequence] = _Drafter()
        if drafter.pause > 0:
            drafter.pause -= 1
            return ()
        # The last token that it may say need not be guessed: the row before yields it.
        num_left = sequence.state.max_tokens - sequence.num_output_tokens - 1
        count = min(max_drafts, num_left, max(1, drafter.num_worthwhile(least_chance)))
        return drafter.table.propose(sequence.token_ids, count) if count > 0 else ()


def num_accepted(draft_ids: Sequence[int], token_ids: Iterable[int]) -> int:
    """Return how many of ``draft_ids`` equal the tokens chosen at their places, up to the first that does not."""
    count = 0
    for draft_id, token_id in zip(draft_ids, token_ids, strict=False):
        if draft_id != token_id:
            break
        count += 1
    return count

"""The story that stories260K tells greedily, from an independent numpy run (see the data's LICENSE), cut into questions."""

import json
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from tests.e2e.callers import Answer

_ROOT = Path(__file__).parents[2]
EXPECTED_IDS: tuple[int, ...] = tuple(json.loads((_ROOT / "tests/data/stories260k/expected_greedy_ids.json").read_text()))
BOS = 1
_TOKENIZER = tokenizers.Tokenizer.from_file(str(_ROOT / "models/stories260k/tokenizer.json"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The story's first ``start`` tokens, and that the next ``length`` are wanted: greedy decoding must go on with the story."""

    start: int
    length: int

    @property
    def prompt(self) -> list[int]:
        """Begin of text and the story so far."""
        return [BOS, *EXPECTED_IDS[: self.start]]

    @property
    def expected_ids(self) -> tuple[int, ...]:
        """How it goes on."""
        return EXPECTED_IDS[self.start : self.start + self.length]

    @property
    def expected_text(self) -> str:
        """The same as text: what the whole reads, less what the prompt reads."""
        before: str = _TOKENIZER.decode(self.prompt)
        whole: str = _TOKENIZER.decode([*self.prompt, *self.expected_ids])
        return whole.removeprefix(before)

    def check(self, answer: Answer) -> None:
        """Assert that ``answer`` is the story's own continuation."""
        assert answer.num_tokens == self.length
        if answer.token_ids is not None:
            assert answer.token_ids == self.expected_ids
        assert answer.text == self.expected_text


WHOLE = Question(start=0, length=len(EXPECTED_IDS))

"""The story that stories260K tells greedily, from an independent numpy run (see the data's LICENSE), cut into questions."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from attendant_client import Client
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


def drawn_sentence(url: str, model: str) -> str:
    """What every line that ``serve`` prints, or the README has, should bring from ``model``: the story that its seed draws.

    Of that the longest part without a character that JSON, a repr or a terminal would write otherwise.
    """
    with Client(url) as client:
        (answer,) = client.complete(model, "Once upon a time", max_tokens=48, temperature=0.7, seed=1).completions
    sentence = max(re.split(r"[^\w ,.]", answer.text), key=len)
    assert len(sentence) > 20
    return sentence

"""In-context episodes: examples of one task in one template, many episodes to a window of tokens.

Every example but the first has examples before it, so each answer of an episode is a query with that many shots and all
of them count in the loss; the rest of an episode counts little, being mostly random words. The window is a function of
the seed and its number alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.recipes.gpt.synthetic import Maker, affix_maker, arithmetic_maker, label_maker, list_maker, recall_maker, word_maker
from models.recipes.gpt.tasks import Pair, Task, load_categories
from models.recipes.gpt.tokenizer import end_of_text_id

MAX_SHOTS = 16
ANSWER_WEIGHT = 3.0
"""A window of episodes has about a quarter of its tokens in answers, so they need a louder voice beside text."""
OTHER_WEIGHT = 0.1
SERVED_TEMPLATE_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """How an example is written: texts before the input, before the output, and after it."""

    before_input: str
    before_output: str
    after_output: str


SERVED_TEMPLATE = Template(before_input="Input: ", before_output="\nOutput: ", after_output="\n\n")
"""What the few-shot task of the server writes when a caller gives no template; a test holds the two together."""

TEMPLATES = (
    Template(before_input="Q: ", before_output="\nA: ", after_output="\n\n"),
    Template(before_input="Question: ", before_output="\nAnswer: ", after_output="\n\n"),
    Template(before_input="Text: ", before_output="\nLabel: ", after_output="\n\n"),
    Template(before_input="Word: ", before_output="\nResult: ", after_output="\n"),
    Template(before_input="x: ", before_output=" y: ", after_output="\n"),
    Template(before_input="", before_output=" -> ", after_output="\n"),
    Template(before_input="", before_output=" => ", after_output="\n"),
    Template(before_input="", before_output=": ", after_output="\n"),
    Template(before_input="", before_output=" = ", after_output="\n"),
    Template(before_input="- ", before_output=" | ", after_output="\n"),
    Template(before_input='"', before_output='" becomes "', after_output='"\n'),
    Template(before_input="Input: ", before_output="\nOutput: ", after_output="\n"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A window of tokens ``[N]`` and how much each counts when it is predicted."""

    token_ids: NDArray[np.uint16]
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Emphasis:
    """How often an episode is of each kind; ``focus_share`` of made-up tasks on lists and on words are of the first few kinds.

    ``name`` keeps the episodes of one emphasis apart from those of another with the same seed.
    """

    name: str
    read: float = 0.32
    words: float = 0.20
    affixes: float = 0.03
    lists: float = 0.20
    numbers: float = 0.05
    recall: float = 0.08
    categories: float = 0.06
    classes: float = 0.06
    focus_share: float = 0.0


EVEN = Emphasis(name="even")
ON_LISTS = Emphasis(
    name="lists", read=0.25, words=0.15, affixes=0.01, lists=0.55, numbers=0.01, recall=0.01, categories=0.01, classes=0.01, focus_share=0.7
)
"""First or last of a list, which only the examples tell apart: what a model learns to read a task from."""
ON_WORDS = Emphasis(
    name="words", read=0.25, words=0.50, affixes=0.02, lists=0.15, numbers=0.01, recall=0.02, categories=0.02, classes=0.03, focus_share=0.6
)


class EpisodeSource:
    """Makes windows of episodes from tasks that are read and tasks that are made up."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        tasks: Sequence[Task],
        classes: Mapping[str, Mapping[str, Sequence[str]]],
        words: Sequence[str],
        seed: int,
        emphasis: Emphasis = EVEN,
    ) -> None:
        self._tokenizer = tokenizer
        self._end_id = end_of_text_id(tokenizer)
        self._seed = f"{seed}/{emphasis.name}"
        categories = load_categories(tasks)
        self._makers: list[tuple[Maker, float]] = [
            (_read_maker([task for task in tasks if not task.is_held_out]), emphasis.read),
            (word_maker(words, focus_share=emphasis.focus_share), emphasis.words),
            (affix_maker(words), emphasis.affixes),
            (list_maker(words, categories, focus_share=emphasis.focus_share), emphasis.lists),
            (arithmetic_maker(), emphasis.numbers),
            (recall_maker(words), emphasis.recall),
            (label_maker(categories, words), emphasis.categories),
            *((label_maker(named, words), emphasis.classes / len(classes)) for named in classes.values()),
        ]

    def window(self, number: int, length: int) -> Window:
        """Return window ``number`` of ``length`` tokens, filled with episodes; the last is cut where the window ends."""
        rng = Random(f"{self._seed}/{number}")
        ids: list[int] = []
        weights: list[float] = []
        while len(ids) < length:
            for token_id, weight in self._episode(rng):
                ids.append(token_id)
                weights.append(weight)
        return Window(token_ids=np.array(ids[:length], dtype=np.uint16), weights=np.array(weights[:length], dtype=np.float32))

    def _episode(self, rng: Random) -> list[tuple[int, float]]:
        num_shots = rng.randint(0, MAX_SHOTS) if rng.random() < 0.5 else rng.randint(8, MAX_SHOTS)
        makers, shares = zip(*self._makers, strict=True)
        pairs: list[Pair] = rng.choices(makers, shares)[0](rng, num_shots + 1)
        template = SERVED_TEMPLATE if rng.random() < SERVED_TEMPLATE_SHARE else rng.choice(TEMPLATES)
        text, answers = write_episode(pairs, template)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        spans = iter([*answers, (len(text) + 1, len(text) + 1)])
        first, last = next(spans)
        tokens = []
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            while start > last:
                first, last = next(spans)
            # From the token in which the answer begins to the one after it, which says that the answer is over.
            tokens.append((token_id, ANSWER_WEIGHT if end > first else OTHER_WEIGHT))
        return [*tokens, (self._end_id, OTHER_WEIGHT)]


def write_episode(pairs: Sequence[Pair], template: Template) -> tuple[str, list[tuple[int, int]]]:
    """Return the text of an episode, and where in it each answer begins and ends."""
    text = ""
    answers = []
    for pair in pairs:
        text += f"{template.before_input}{pair.input}{template.before_output}"
        answers.append((len(text), len(text) + len(pair.output)))
        text += f"{pair.output}{template.after_output}"
    return text, answers


def _read_maker(tasks: Sequence[Task]) -> Maker:
    """Return a maker that draws one of the tasks that were read."""
    # By the fourth root of their sizes: one of 85,000 pairs comes four times as often as one of 300.
    shares = [len(task.pairs) ** 0.25 for task in tasks]
    parts = {False: [task.training_pairs for task in tasks], True: [task.held_out_pairs for task in tasks]}

    def make(rng: Random, count: int, *, held_out: bool = False) -> list[Pair]:
        pairs = rng.choices(parts[held_out], shares)[0]
        return rng.sample(pairs, min(count, len(pairs)))

    return make

"""Continuations of story openings, greedy and sampled, and how much they repeat themselves."""

from collections.abc import Sequence
from dataclasses import dataclass

from attendant_client import Client

OPENINGS = (
    "Once upon a time there was a little fox who lived",
    "The old woman put the kettle on the fire and",
    '"Where are you going?" asked the boy.',
    "It was raining hard when Anna and her brother came to the river.",
    "The king had three sons, and the youngest",
    "Tom looked under the bed, and there he saw",
    "Early in the morning the farmer went to the barn to see whether",
    "The ship had been at sea for forty days when the captain",
    "My grandmother told me that long ago the moon",
    "Nobody in the village knew who had",
)
MAX_TOKENS = 120
TEMPERATURE = 0.8
TOP_P = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """An opening and what the model wrote after it."""

    opening: str
    greedy: str
    sampled: str


def continue_openings(client: Client, model: str, openings: Sequence[str] = OPENINGS) -> tuple[Continuation, ...]:
    """Continue each opening greedily, and once by sampling with its number as the seed."""
    found = []
    for number, opening in enumerate(openings):
        greedy = client.complete(model, opening, max_tokens=MAX_TOKENS, temperature=0.0)
        sampled = client.complete(model, opening, max_tokens=MAX_TOKENS, seed=number, temperature=TEMPERATURE, top_p=TOP_P)
        found.append(Continuation(opening=opening, greedy=greedy.completions[0].text, sampled=sampled.completions[0].text))
    return tuple(found)


def distinct_share(texts: Sequence[str], *, size: int = 3) -> float:
    """Return the share of different runs of ``size`` words among all such runs of the texts ("distinct-n", Li et al. 2016)."""
    runs = [run for text in texts for run in _runs(text, size)]
    return len(set(runs)) / len(runs) if runs else 1.0


def repeated_share(texts: Sequence[str], *, size: int = 4) -> float:
    """Return the share of runs of ``size`` words that stood earlier in the same text."""
    num_runs = num_repeated = 0
    for text in texts:
        seen = set()
        for run in _runs(text, size):
            num_runs += 1
            num_repeated += run in seen
            seen.add(run)
    return num_repeated / num_runs if num_runs else 0.0


def _runs(text: str, size: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]

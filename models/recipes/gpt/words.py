"""The words that synthetic tasks are made of: plain lower-case words of the training text, most frequent first."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

_WORD = re.compile(r"(?<![\w'-])[a-z]{2,12}(?![\w'-])")
MIN_COUNT = 20
MAX_WORDS = 20_000


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Count the lower-case words of ``texts`` that stand alone, so that names and hyphened words are left out."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORD.findall(text))
    return counts


def write_words(path: Path, counts: Counter[str]) -> None:
    """Write the frequent words, one a line, most frequent first; equal counts in alphabetical order."""
    ranked = sorted((-count, word) for word, count in counts.items() if count >= MIN_COUNT)
    path.write_text("".join(f"{word}\n" for _, word in ranked[:MAX_WORDS]), encoding="utf-8")


def read_words(path: Path) -> list[str]:
    """Return the words that ``write_words`` wrote."""
    return path.read_text(encoding="utf-8").split()

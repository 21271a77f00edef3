"""What a token's vector knows of its letters before training begins.

A token is one number to a model, so that the letters of each of 8,192 have to be learned from wherever they show. A vector that
starts as the sum of one vector for each letter in its place, from the front and from the back, for its length and for its
case has them at once, and what is learned of some words holds for the others: the idea of Bojanowski et al. 2017, "Enriching
word vectors with subword information", for the first value alone; after that they are vectors like any other.
"""

import math

import torch
from tokenizers import Tokenizer

SPELLING_STD = 0.05
"""What the elements are scaled by, beside 0.02 of the random part and about 0.08 after training."""
FROM_FRONT = 8
FROM_BACK = 6
_SPACE = "Ġ"  # how a byte-level vocabulary writes a leading space


def spelling_vectors(tokenizer: Tokenizer, *, width: int, seed: int) -> torch.Tensor:
    """Return ``[V, width]`` float32 with elements of about unit variance: rows of tokens that share letters are alike."""
    features = [_features(token) for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    numbers = {name: number for number, name in enumerate(sorted({name for row in features for name in row}))}
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(numbers), width, generator=generator)
    rows = [vectors[[numbers[name] for name in row]].sum(0) / math.sqrt(len(row)) for row in features]
    return torch.stack(rows)


def _features(token: str) -> list[str]:
    word = token.removeprefix(_SPACE)
    letters = word.lower()
    case = "lower" if word == letters else "title" if word == word.capitalize() else "upper"
    front = [f"{place}:{letter}" for place, letter in enumerate(letters[:FROM_FRONT])]
    back = [f"-{place}:{letter}" for place, letter in enumerate(reversed(letters[-FROM_BACK:]))]
    return [*front, *back, f"length {min(len(word), 12)}", case, "spaced" if token.startswith(_SPACE) else "joined"]

"""Whether two engines compute the same model: their answers to one fixed load, compared.

Random weights leave many tokens nearly tied, so low precision may choose others; vectors are compared by their cosine.
"""

import math


def agreement(kind: str, answer: list[list[float]], reference: list[list[float]]) -> float:
    """Return the least cosine over the vectors, or the share of tokens before the first that differs."""
    pairs = list(zip(answer, reference, strict=True))
    if kind == "encode":
        return min(_cosine(a, b) for a, b in pairs)
    return sum(_num_equal_first(a, b) for a, b in pairs) / sum(len(b) for _, b in pairs)


def _cosine(a: list[float], b: list[float]) -> float:
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def _num_equal_first(a: list[float], b: list[float]) -> int:
    num_equal = 0
    for x, y in zip(a, b, strict=True):
        if x != y:
            break
        num_equal += 1
    return num_equal

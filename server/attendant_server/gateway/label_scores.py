"""How likely each label is after a prompt: every label's whole token sequence is scored by the model, nothing is generated.

Prompt and label are tokenised together, since a label's first letters may join what stands before it; what counts for a
label are its tokens after the part that all labels share with the prompt. The arithmetic here is plain numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from attendant_engine.tokenizers import Tokenizer
from attendant_engine.types import SequenceOutput
from attendant_server.errors import ServingError


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTokens:
    """Token ids of the prompt with each label behind it; positions before ``boundary`` are the same in all of them."""

    token_ids: tuple[tuple[int, ...], ...]
    boundary: int


def encode_labels(tokenizer: Tokenizer, prompt: str, labels: Sequence[str]) -> LabelTokens:
    """Tokenise the prompt with each label."""
    prompt_ids = _encode(tokenizer, prompt)
    token_ids = tuple(_encode(tokenizer, prompt + label) for label in labels)
    # At least one token stays before the boundary where there is one: the very first is predicted by nothing.
    boundary = min((_num_common(prompt_ids, ids) for ids in token_ids), default=0)
    shortest = min(len(ids) for ids in token_ids)
    return LabelTokens(token_ids=token_ids, boundary=max(min(boundary, shortest - 1), 0))


def label_logprob(output: SequenceOutput, num_tokens: int, boundary: int) -> float:
    """Return the summed log-probability of the tokens from ``boundary`` on. Raises for an answer without them."""
    positions = output.prompt_logprobs
    if positions is None or len(positions) != num_tokens - boundary:
        raise ServingError("server_error", "the model gave no score for a label")
    return math.fsum(position.logprob for position in positions if position is not None)


def probabilities(logprobs: Sequence[float], content_free: Sequence[float] | None = None) -> list[float]:
    """Return the labels' probabilities: their softmax, each divided by its own for a content-free query if that is given.

    Contextual calibration, Zhao et al. 2021, "Calibrate Before Use", with a diagonal matrix and no bias.
    """
    scores = [score - (content_free[idx] if content_free is not None else 0.0) for idx, score in enumerate(logprobs)]
    best = max(scores)
    weights = [math.exp(score - best) for score in scores]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def _encode(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    ids = tokenizer.encode(text, add_special_tokens=True).ids
    plain = tokenizer.encode(text, add_special_tokens=False).ids
    # Some tokenizers close a text with a mark; nothing may stand behind a label.
    num_after = 0
    while (
        len(ids) - num_after > len(plain)
        and ids[len(ids) - num_after - 1] in tokenizer.special_token_ids
        and (ids[len(ids) - num_after - len(plain) : len(ids) - num_after] != plain)
    ):
        num_after += 1
    return ids[: len(ids) - num_after] if num_after else ids


def _num_common(first: Sequence[int], second: Sequence[int]) -> int:
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count

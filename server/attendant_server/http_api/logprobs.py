"""Log-probabilities in the three shapes that clients know: OpenAI's for completions, OpenAI's for chat, vLLM's for prompts."""

from collections.abc import Sequence
from typing import Any

from attendant_server.gateway.results import PositionLogprobs, TokenLogprob

# JSON has no minus infinity; this is below every log-probability that a float32 softmax can give but zero's.
LOWEST = -9999.0


def completion_shape(positions: Sequence[PositionLogprobs] | None) -> dict[str, Any] | None:
    """Return four parallel lists, one entry a token; the first token of an echoed prompt has null for both log-probabilities.

    The token that stands there is among its ``top_logprobs`` too, with the same number, and two tokens of the same text keep the
    better one: programs such as lm-eval call a token greedy when its number equals the best exactly.
    """
    if positions is None:
        return None
    return {
        "tokens": [position.token for position in positions],
        "token_logprobs": [None if position.logprob is None else max(position.logprob, LOWEST) for position in positions],
        "top_logprobs": [_top_of(position) for position in positions],
        "text_offset": [position.text_offset for position in positions],
    }


def chat_shape(positions: Sequence[PositionLogprobs] | None) -> dict[str, Any] | None:
    """Return a list of tokens with their bytes and their rivals."""
    if positions is None:
        return None
    content = [
        {
            "token": position.token,
            "logprob": LOWEST if position.logprob is None else max(position.logprob, LOWEST),
            "bytes": list(position.token_bytes),
            "top_logprobs": [_chat_entry(top) for top in position.top],
        }
        for position in positions
    ]
    return {"content": content, "refusal": None}


def prompt_shape(positions: Sequence[PositionLogprobs]) -> list[dict[str, Any] | None]:
    """Return one object a prompt position, from token id to log-probability and text; null where nothing predicts the token."""
    shaped: list[dict[str, Any] | None] = []
    for position in positions:
        if position.logprob is None:
            shaped.append(None)
            continue
        entries = {
            str(position.token_id): {"logprob": max(position.logprob, LOWEST), "decoded_token": position.token},
        }
        for top in position.top:
            entries.setdefault(str(top.token_id), {"logprob": max(top.logprob, LOWEST), "decoded_token": top.token})
        shaped.append(entries)
    return shaped


def _top_of(position: PositionLogprobs) -> dict[str, float] | None:
    if position.logprob is None:
        return None
    best = {position.token: max(position.logprob, LOWEST)}
    for top in position.top:
        logprob = max(top.logprob, LOWEST)
        best[top.token] = max(logprob, best.get(top.token, logprob))
    return best


def _chat_entry(top: TokenLogprob) -> dict[str, Any]:
    return {"token": top.token, "logprob": max(top.logprob, LOWEST), "bytes": list(top.token_bytes)}

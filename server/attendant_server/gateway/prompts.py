"""Prompts as a model reads them: token ids, and (where it will be shown) the text with each token's place in it.

Everything here may take long for a long text and runs in the text pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from attendant_engine.tokenizers import Tokenizer
from attendant_server.errors import ServingError
from attendant_server.gateway.validation import check_token_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """One prompt. ``text`` and ``offsets`` (characters, one a token) are empty unless they were asked for."""

    token_ids: tuple[int, ...]
    text: str = ""
    offsets: tuple[int, ...] = ()


def encode_prompts(
    tokenizer: Tokenizer, prompts: Sequence[str | Sequence[int]], *, vocab_size: int, param: str, with_text: bool
) -> tuple[EncodedPrompt, ...]:
    """Tokenise texts with the model's own marks; take ids as they are.

    Raises ``ServingError`` for ids outside the vocabulary, naming ``param`` (with an index when there are several).
    """
    return tuple(
        _encode(tokenizer, prompt, vocab_size=vocab_size, param=param_at(param, idx, len(prompts)), with_text=with_text)
        for idx, prompt in enumerate(prompts)
    )


def param_at(param: str, idx: int, count: int) -> str:
    """Name one of several inputs, or the only one."""
    return f"{param}[{idx}]" if count > 1 else param


def _encode(tokenizer: Tokenizer, prompt: str | Sequence[int], *, vocab_size: int, param: str, with_text: bool) -> EncodedPrompt:
    if isinstance(prompt, str):
        encoding = tokenizer.encode(prompt, add_special_tokens=True)
        if not encoding.ids:
            raise ServingError("invalid_value", f"'{param}' has no tokens; give at least one character or token id", param=param)
        # Marks around the text have no place in it; they stand where the next token does.
        return EncodedPrompt(
            token_ids=encoding.ids,
            text=prompt if with_text else "",
            offsets=tuple(first for first, _ in encoding.offsets) if with_text else (),
        )
    check_token_ids(prompt, vocab_size=vocab_size, param=param)
    if not with_text:
        return EncodedPrompt(token_ids=tuple(prompt))
    decoder = tokenizer.incremental_decoder()
    parts: list[str] = []
    offsets: list[int] = []
    num_chars = 0
    for token_id in prompt:
        offsets.append(num_chars)
        parts.append(decoder.push((token_id,)))
        num_chars += len(parts[-1])
    parts.append(decoder.finish())
    return EncodedPrompt(token_ids=tuple(prompt), text="".join(parts), offsets=tuple(offsets))

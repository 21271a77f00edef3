"""The byte-level BPE of ``attendant-gpt``: GPT-2's pattern and alphabet, merges of its own.

Digits are never merged, with each other or with a space: a number is its digits, which small models can calculate with.
That is a property of the merges alone, so the saved file has GPT-2's plain pre-tokenizer and any reader agrees.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Return a tokenizer of ``vocab_size`` tokens, 256 bytes and the end mark (id 0) among them, fitted to ``texts``."""
    tokenizer = Tokenizer(BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    apart = pre_tokenizers.Split(Regex(r"\d"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([apart, byte_level])
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """Return the id of the mark that ends a document. Raises ``ValueError`` for a tokenizer without it."""
    token_id: int | None = tokenizer.token_to_id(END_OF_TEXT)
    if token_id is None:
        raise ValueError(f"the tokenizer has no token {END_OF_TEXT}")
    return token_id

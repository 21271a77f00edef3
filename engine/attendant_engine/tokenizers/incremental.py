"""Text from token ids as they come: whole characters only, at constant cost a token."""

import codecs
from collections.abc import Iterable
from typing import Protocol

from attendant_engine.tokenizers.pieces import Pieces


class Vocabulary(Protocol):
    """What decoding asks of a tokenizer."""

    def id_to_token(self, token_id: int) -> str | None:
        """Return the token as the vocabulary writes it, None for an id that is not there."""
        ...

    def is_special(self, token_id: int) -> bool:
        """Tell whether the token is a mark such as an end of text."""
        ...


class IncrementalDecoder:
    """One text being decoded. What ``push`` and ``finish`` return, joined, is the text of all ids.

    Bytes that are no UTF-8 become U+FFFD, one for each maximal broken part (Unicode 15, section 3.9); the bytes of an
    unfinished character are held back. ``continues`` means that text came before, so a leading space is kept.
    """

    def __init__(self, vocabulary: Vocabulary, pieces: Pieces, *, skip_special_tokens: bool, continues: bool) -> None:
        self._vocabulary = vocabulary
        self._pieces = pieces
        self._skip_special_tokens = skip_special_tokens
        self._is_first = not continues
        self._num_to_strip = 0 if continues else pieces.num_stripped
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_ids: Iterable[int]) -> str:
        """Return the text that these ids complete. An id outside the vocabulary adds nothing."""
        return self._strip(self._utf8.decode(b"".join(self._bytes(token_ids))))

    def finish(self) -> str:
        """Return what was held back, as U+FFFD if it is half a character. Call once, at the end."""
        return self._strip(self._utf8.decode(b"", final=True))

    def _bytes(self, token_ids: Iterable[int]) -> Iterable[bytes]:
        for token_id in token_ids:
            if self._skip_special_tokens and self._vocabulary.is_special(token_id):
                continue
            token = self._vocabulary.id_to_token(token_id)
            if token is not None:
                yield self._pieces.bytes_of(token, self._is_first)
                self._is_first = False

    def _strip(self, text: str) -> str:
        """Take the dummy prefix off the start of the whole text."""
        while self._num_to_strip and text:
            if not text.startswith(self._pieces.stripped):
                self._num_to_strip = 0
                break
            text = text[len(self._pieces.stripped) :]
            self._num_to_strip -= 1
        return text

"""A checkpoint's tokenizer: text to ids and back, thin over the `tokenizers` library.

Knows files and text, not models or requests. Safe to use from several threads at once.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer as BackendTokenizer

from attendant_engine.errors import InvalidRequestError, UnsupportedError
from attendant_engine.json_fields import Fields, read_optional_fields
from attendant_engine.tokenizers.chat_template import ChatTemplates, load_chat_templates
from attendant_engine.tokenizers.files import load_backend_tokenizer
from attendant_engine.tokenizers.incremental import IncrementalDecoder
from attendant_engine.tokenizers.pieces import pieces_for

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_NO_MAX_LENGTH = 10**9
"""Files say "no limit" with absurd numbers of their own; above this it is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """A tokenised text: ids, segment of each (0, or 1 for the second of a pair), and its characters ``[first, last)``."""

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]


class Tokenizer:
    """Made by ``Tokenizer.load``."""

    def __init__(self, backend: BackendTokenizer, settings: Fields, named_tokens: Mapping[str, str], templates: ChatTemplates) -> None:
        self._backend = backend
        self._settings = settings
        self._named_tokens = dict(named_tokens)
        self._templates = templates
        document = json.loads(backend.to_str())
        self._pieces = pieces_for(document["decoder"])
        self._special_ids = frozenset(token["id"] for token in document["added_tokens"] if token["special"])
        self._token_by_id = {token_id: token for token, token_id in backend.get_vocab(with_added_tokens=True).items()}

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read the tokenizer files of a model directory. Raises ``CheckpointError`` for absent or damaged ones."""
        settings = read_optional_fields(path, "tokenizer_config.json") or Fields("tokenizer_config.json", {})
        special = read_optional_fields(path, "special_tokens_map.json") or Fields("special_tokens_map.json", {})
        named = {name: _content(special.get(name)) for name in _NAMED_TOKENS}
        named |= {name: _content(settings.get(name)) for name in _NAMED_TOKENS if settings.get(name) is not None}
        return cls(
            load_backend_tokenizer(path, settings),
            settings,
            {name: token for name, token in named.items() if token is not None},
            load_chat_templates(path, settings),
        )

    @property
    def vocab_size(self) -> int:
        """One more than the greatest id."""
        return max(self._token_by_id, default=-1) + 1

    @property
    def bos_token_id(self) -> int | None:
        """The id that starts a text, if the files name one."""
        return self._named_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """The id that ends a text, if the files name one."""
        return self._named_id("eos_token")

    @property
    def pad_token_id(self) -> int | None:
        """The padding id, if the files name one."""
        return self._named_id("pad_token")

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Ids of all marks that are no text."""
        return self._special_ids

    @property
    def model_max_length(self) -> int | None:
        """The longest input in tokens that the files name, None for no limit."""
        value = self._settings.get("model_max_length")
        return int(value) if isinstance(value, int | float) and 0 < value < _NO_MAX_LENGTH else None

    @property
    def has_chat_template(self) -> bool:
        """Tell whether ``render_chat`` can be used."""
        return self._templates.is_present

    def encode(self, text: str, *, add_special_tokens: bool, pair: str | None = None, allow_special: bool = True) -> Encoding:
        """Tokenise a text, or a pair of texts as one input.

        ``add_special_tokens`` puts the model's own marks around it. ``allow_special`` False reads marks that are written
        inside the text as plain text. Raises ``InvalidRequestError`` for text that is not Unicode (a lone surrogate).
        """
        check_unicode(text)
        if pair is not None:
            check_unicode(pair)
        backend = self._backend if allow_special else self._plain_backend
        encoding = backend.encode(text, pair, add_special_tokens=add_special_tokens)
        return Encoding(ids=tuple(encoding.ids), type_ids=tuple(encoding.type_ids), offsets=tuple(encoding.offsets))

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of all ids at once: exactly what an ``IncrementalDecoder`` gives for them."""
        decoder = self.incremental_decoder(skip_special_tokens=skip_special_tokens)
        return decoder.push(token_ids) + decoder.finish()

    def incremental_decoder(self, *, prompt_ids: Sequence[int] = (), skip_special_tokens: bool = True) -> IncrementalDecoder:
        """Return a decoder for ids that follow ``prompt_ids``; only marks, or nothing, before it make a new text."""
        continues = any(token_id not in self._special_ids for token_id in prompt_ids)
        return IncrementalDecoder(self, self._pieces, skip_special_tokens=skip_special_tokens, continues=continues)

    def id_to_token(self, token_id: int) -> str | None:
        """Return the token as the vocabulary writes it, None for an id that is not there."""
        return self._token_by_id.get(token_id)

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token of the vocabulary, None where there is none."""
        return self._backend.token_to_id(token)

    def is_special(self, token_id: int) -> bool:
        """Tell whether the token is a mark such as an end of text."""
        return token_id in self._special_ids

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that the token adds inside a text, empty for an id that is not there."""
        token = self._token_by_id.get(token_id)
        return b"" if token is None else self._pieces.bytes_of(token, False)

    def warm_up(self) -> None:
        """Start what renders chats, so that the first chat need not wait for it."""
        self._templates.warm_up()

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """Return the prompt that the checkpoint's own chat template makes of ``messages``.

        Raises ``UnsupportedError`` without a template, ``InvalidRequestError`` when the template refuses the messages, and
        ``RequestFaultError`` when it takes too much processor time or memory.
        """
        if not self._templates.is_present:
            raise UnsupportedError("This model has no chat template; use completions with a prompt instead.", param="messages")
        return self._templates.render(
            messages, tools=tools, variables={**self._named_tokens, **variables, "add_generation_prompt": add_generation_prompt}
        )

    def info(self) -> dict[str, Any]:
        """Return what ``/tokenizer_info`` shows: the settings of the files, named tokens as plain strings, and the ids."""
        settings = {key: value for key, value in self._settings.values.items() if key != "added_tokens_decoder"}
        return {
            "tokenizer_class": "Tokenizer",
            **settings,
            **{name: self._named_tokens.get(name) for name in _NAMED_TOKENS},
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
            "model_max_length": self.model_max_length,
            "vocab_size": self.vocab_size,
            "chat_template": self._templates.source,
        }

    @cached_property
    def _plain_backend(self) -> BackendTokenizer:
        """A second tokenizer that reads marks as text: the library keeps that choice in the tokenizer, not the call."""
        plain = BackendTokenizer.from_str(self._backend.to_str())
        plain.encode_special_tokens = True
        return plain

    def _named_id(self, name: str) -> int | None:
        token = self._named_tokens.get(name)
        return None if token is None else self._backend.token_to_id(token)


def check_unicode(text: str) -> None:
    """Raise ``InvalidRequestError`` where ``text`` has a surrogate without its other half."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"The text has a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}; send valid Unicode."
        ) from None


def _content(token: object) -> str | None:
    """Return a named token's text; the files write it plain or as an object."""
    if isinstance(token, dict):
        token = cast(dict[str, object], token).get("content")
    return token if isinstance(token, str) else None

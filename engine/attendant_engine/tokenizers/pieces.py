"""What bytes each token stands for, by the rules of the tokenizer's own decoder.

Knowing a token's bytes by itself is what lets text be decoded as it comes, at constant cost a token. Follows the decoders
of the `tokenizers` library; one that cannot be applied token by token is refused.
"""

import re
from collections.abc import Callable, Mapping
from typing import cast

from attendant_engine.errors import CheckpointError

Rule = Callable[[str, bool], str | bytes]
"""Maps a token, and whether it is the text's first, to text; or to bytes, which ends the chain."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_CLEANUPS = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


class Pieces:
    """Tokens to bytes: ``rules`` applied in order; ``num_stripped`` characters ``stripped`` leave the start of a whole text."""

    def __init__(self, rules: tuple[Rule, ...], *, stripped: str = " ", num_stripped: int = 0) -> None:
        self._rules = rules
        self._known: dict[str, bytes] = {}  # of tokens inside a text: at most the vocabulary
        self.stripped = stripped
        self.num_stripped = num_stripped

    def bytes_of(self, token: str, is_first: bool) -> bytes:
        """Return the bytes that ``token`` adds to a text."""
        if is_first:
            return self._apply_rules(token, is_first)
        known = self._known.get(token)
        if known is None:
            known = self._known[token] = self._apply_rules(token, is_first)
        return known

    def _apply_rules(self, token: str, is_first: bool) -> bytes:
        piece: str | bytes = token
        for rule in self._rules:
            if isinstance(piece, bytes):
                break
            piece = rule(piece, is_first)
        return piece if isinstance(piece, bytes) else piece.encode("utf-8", errors="replace")


def pieces_for(decoder: Mapping[str, object] | None) -> Pieces:
    """Return the rules of a decoder as ``tokenizer.json`` writes it; None joins tokens by spaces.

    Raises ``CheckpointError`` for a decoder that is not known.
    """
    if decoder is None:
        return Pieces((_join_by_space,))
    steps = cast(list[dict[str, object]], decoder["decoders"]) if decoder["type"] == "Sequence" else [dict(decoder)]
    rules: list[Rule] = []
    is_fused, stripped, num_stripped = False, " ", 0
    for step in steps:
        kind = step["type"]
        if kind == "Fuse":
            is_fused = True
        elif kind == "Strip" and is_fused and step["stop"] == 0:
            stripped, num_stripped = str(step["content"]), int(cast(int, step["start"]))
        elif isinstance(kind, str) and kind in _MAKERS and not is_fused:
            rules.append(_MAKERS[kind](step))
        else:
            raise CheckpointError(f"tokenizer.json: the decoder {kind!r:.40} is not supported in this place.")
    return Pieces(tuple(rules), stripped=stripped, num_stripped=num_stripped)


def byte_of_character() -> dict[str, int]:
    """Return GPT-2's table from printable characters to the bytes that they stand for (Radford et al. 2019)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTES = byte_of_character()


def _join_by_space(token: str, is_first: bool) -> str:
    return token if is_first else f" {token}"


def _byte_level(token: str, is_first: bool) -> bytes:
    """Map characters to bytes; a token with any other character, such as an added one, is itself."""
    try:
        return bytes(_BYTES[character] for character in token)
    except KeyError:
        return token.encode("utf-8", errors="replace")


def _byte_fallback(token: str, is_first: bool) -> str | bytes:
    match = _BYTE_TOKEN.fullmatch(token)
    return token if match is None else bytes([int(match[1], 16)])


def _word_piece(step: Mapping[str, object]) -> Rule:
    prefix, is_cleaning = str(step["prefix"]), bool(step["cleanup"])

    def rule(token: str, is_first: bool) -> str:
        if not is_first:
            token = token.removeprefix(prefix) if token.startswith(prefix) else f" {token}"
        if is_cleaning:
            for written, read in _CLEANUPS:
                token = token.replace(written, read)
        return token

    return rule


def _metaspace(step: Mapping[str, object]) -> Rule:
    mark, is_prepended = str(step["replacement"]), step.get("prepend_scheme", "always") != "never"

    def rule(token: str, is_first: bool) -> str:
        return token.replace(mark, "" if is_first and is_prepended else " ")

    return rule


def _replace(step: Mapping[str, object]) -> Rule:
    pattern = cast(Mapping[str, str], step["pattern"])
    if "String" not in pattern:
        raise CheckpointError("tokenizer.json: a decoder that replaces by regular expression is not supported.")
    written, read = pattern["String"], str(step["content"])
    return lambda token, is_first: token.replace(written, read)


def _strip(step: Mapping[str, object]) -> Rule:
    content, start, stop = str(step["content"]), int(cast(int, step["start"])), int(cast(int, step["stop"]))

    def rule(token: str, is_first: bool) -> str:
        for _ in range(start):
            token = token.removeprefix(content)
        for _ in range(stop):
            token = token.removesuffix(content)
        return token

    return rule


_MAKERS: dict[str, Callable[[Mapping[str, object]], Rule]] = {
    "ByteLevel": lambda step: _byte_level,
    "ByteFallback": lambda step: _byte_fallback,
    "WordPiece": _word_piece,
    "Metaspace": _metaspace,
    "Replace": _replace,
    "Strip": _strip,
}

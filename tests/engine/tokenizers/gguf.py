"""Reads the vocabulary out of a GGUF file, so that its published vectors can be tested. Format: ggml's ``docs/gguf.md``."""

import lzma
import struct
from pathlib import Path
from typing import cast

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def scalar(self, form: str) -> int | float | bool:
        value: int | float | bool = struct.unpack_from(form, self._data, self._position)[0]
        self._position += struct.calcsize(form)
        return value

    def text(self) -> str:
        length = int(self.scalar("<Q"))
        self._position += length
        return self._data[self._position - length : self._position].decode("utf-8")

    def value(self, kind: int) -> object:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            element, count = int(self.scalar("<I")), int(self.scalar("<Q"))
            return [self.value(element) for _ in range(count)]
        return self.scalar(_SCALARS[kind])


def read_gguf_metadata(path: Path) -> dict[str, object]:
    """Return the key-value section of an xz-compressed GGUF file."""
    reader = _Reader(lzma.decompress(path.read_bytes()))
    assert reader.scalar("<I") == int.from_bytes(b"GGUF", "little")
    reader.scalar("<I")  # version
    reader.scalar("<Q")  # tensors, none here
    num_values = int(reader.scalar("<Q"))
    metadata = {}
    for _ in range(num_values):
        key = reader.text()
        metadata[key] = reader.value(int(reader.scalar("<I")))
    return metadata


_CONTROL, _USER_DEFINED = 3, 4
_SPACE = "\u2581"


def gguf_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer of a GGUF file, of the kinds that the test data has: SentencePiece, MPT and Falcon."""
    metadata = read_gguf_metadata(path)
    tokens = cast(list[str], metadata["tokenizer.ggml.tokens"])
    types = cast(list[int], metadata["tokenizer.ggml.token_type"])
    if metadata["tokenizer.ggml.model"] == "llama":
        tokenizer = _sentence_piece(tokens, cast(list[float], metadata["tokenizer.ggml.scores"]))
    else:
        tokenizer = _byte_level(tokens, cast(list[str], metadata["tokenizer.ggml.merges"]), str(metadata["tokenizer.ggml.pre"]))
    specials = [AddedToken(token, special=True) for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    others = [
        AddedToken(token, normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if kind == _USER_DEFINED and not token.startswith("[PAD")
    ]
    tokenizer.add_special_tokens(specials)
    tokenizer.add_tokens(others)
    return tokenizer


def _byte_level(tokens: list[str], merges: list[str], pre: str) -> Tokenizer:
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    tokenizer = Tokenizer(BPE(vocabulary, pairs))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre == "falcon":
        digits = pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Punctuation("contiguous"), byte_level, pre_tokenizers.Digits(individual_digits=False), digits]
        )
    else:
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(tokens: list[str], scores: list[float]) -> Tokenizer:
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    merges: list[tuple[float, int, int, str, str]] = []
    for token, score in zip(tokens, scores, strict=True):
        for middle in range(1, len(token)):
            left, right = token[:middle], token[middle:]
            if left in vocabulary and right in vocabulary:
                merges.append((-score, vocabulary[left], vocabulary[right], left, right))
    merges.sort()
    model = BPE(vocabulary, [merge[3:] for merge in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer

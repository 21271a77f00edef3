"""A checkpoint's tokenizer files, whichever of the usual forms they take, as one ``tokenizers.Tokenizer``.

``tokenizer.json`` wins; else BERT's ``vocab.txt`` or GPT-2's vocabulary and merges are set up as their first
implementations did.
"""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.pre_tokenizers import ByteLevel as ByteLevelPreTokenizer
from tokenizers.processors import BertProcessing
from tokenizers.processors import ByteLevel as ByteLevelProcessor

from attendant_engine.errors import CheckpointError
from attendant_engine.json_fields import Fields

_BYTE_PAIR_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
_BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_END_OF_TEXT = "<|endoftext|>"


def load_backend_tokenizer(directory: Path, settings: Fields) -> Tokenizer:
    """Return the tokenizer of ``directory``; ``settings`` is its ``tokenizer_config.json``, perhaps empty.

    Never truncates or pads, whatever the file says: lengths are the caller's to check.
    Raises ``CheckpointError`` when there is none or it is damaged.
    """
    try:
        tokenizer = _load(directory, settings)
    except CheckpointError:
        raise
    except Exception:  # The library raises bare Exception for every malformed file.
        raise CheckpointError("The tokenizer's files are damaged or of a kind that is not supported; download them again.") from None
    if tokenizer is None:
        raise CheckpointError("The model directory has no tokenizer: add tokenizer.json, vocab.txt, or vocab.json and merges.txt.")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _load(directory: Path, settings: Fields) -> Tokenizer | None:
    if (directory / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(directory / "tokenizer.json"))
    if (directory / "vocab.txt").is_file():
        return _word_piece(directory / "vocab.txt", settings)
    for vocabulary, merges in _BYTE_PAIR_FILES:
        if (directory / vocabulary).is_file() and (directory / merges).is_file():
            return _byte_pair(directory / vocabulary, directory / merges, settings)
    return None


def _word_piece(path: Path, settings: Fields) -> Tokenizer:
    """BERT's: lower case unless told otherwise, accents stripped with it, Chinese characters as words."""
    tokenizer = Tokenizer(WordPiece.from_file(str(path), unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", True),
        strip_accents=settings.flag("strip_accents", False) if "strip_accents" in settings else None,
        lowercase=settings.flag("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder(prefix="##", cleanup=True)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _BERT_SPECIALS if tokenizer.token_to_id(token) is not None])
    first, last = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    if first is None or last is None:
        raise CheckpointError("vocab.txt lacks [CLS] or [SEP].")
    tokenizer.post_processor = BertProcessing(("[SEP]", last), ("[CLS]", first))
    return tokenizer


def _byte_pair(vocabulary: Path, merges: Path, settings: Fields) -> Tokenizer:
    """GPT-2's: byte-level pieces, no marks around a text."""
    tokenizer = Tokenizer(BPE.from_file(str(vocabulary), str(merges)))
    tokenizer.pre_tokenizer = ByteLevelPreTokenizer(add_prefix_space=settings.flag("add_prefix_space", False))
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.post_processor = ByteLevelProcessor(trim_offsets=False)
    if tokenizer.token_to_id(_END_OF_TEXT) is not None:
        tokenizer.add_special_tokens([AddedToken(_END_OF_TEXT, special=True)])
    return tokenizer

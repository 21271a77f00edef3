"""Text to token ids and back: ``from attendant_engine.tokenizers import Tokenizer``."""

from attendant_engine.tokenizers.incremental import IncrementalDecoder
from attendant_engine.tokenizers.tokenizer import Encoding, Tokenizer

__all__ = ["Encoding", "IncrementalDecoder", "Tokenizer"]

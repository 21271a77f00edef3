"""The real vocabularies of the test data, as tokenizers, each loaded once a test process."""

import lzma
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from attendant_engine.tokenizers import Tokenizer
from tests.engine.tokenizers.gguf import gguf_tokenizer

DATA = Path(__file__).parents[2] / "data" / "tokenizers"
REPOSITORY = Path(__file__).parents[3]

LoadTokenizer = Callable[[str], Tokenizer]


@pytest.fixture(scope="session")
def load_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> LoadTokenizer:
    """Return a function from the vocabulary's name to its tokenizer."""

    @cache
    def load(name: str) -> Tokenizer:
        if name == "stories260k":
            return Tokenizer.load(REPOSITORY / "models" / name)
        directory = tmp_path_factory.mktemp(name)
        if (DATA / name).is_dir():
            for path in (DATA / name).iterdir():
                (directory / path.stem).write_bytes(lzma.decompress(path.read_bytes()))
        else:
            gguf_tokenizer(DATA / "gguf_vocabs" / f"ggml-vocab-{name}.gguf.xz").save(str(directory / "tokenizer.json"))
        return Tokenizer.load(directory)

    return load

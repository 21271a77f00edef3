"""Text becomes tokens without loss, and numbers stay digits."""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from models.recipes.gpt.corpus import VALIDATION_SOURCES, WorkFiles, cut_text, open_tokens, prepare_corpus, read_documents, token_bytes
from models.recipes.gpt.tokenizer import END_OF_TEXT, end_of_text_id
from models.recipes.gpt.words import count_words
from tests.models.recipes.gpt.conftest import VOCAB_SIZE


def test_the_tokens_of_a_source_are_its_documents_each_closed_by_the_end_mark(data: Path, work: WorkFiles, tokenizer: Tokenizer) -> None:
    for source in ("pd_children_stories", "tatoeba_english_sentences"):
        documents = list(read_documents(data / "lm" / f"{source}.txt.xz"))
        text = tokenizer.decode(open_tokens(work, source).tolist(), skip_special_tokens=False)
        assert text == "".join(f"{document}{END_OF_TEXT}" for document in documents)
        assert len(documents) == (8 if source.startswith("pd") else 4)


def test_a_long_document_that_is_cut_has_the_tokens_of_the_whole(tokenizer: Tokenizer) -> None:
    text = "".join(f"The fox went to the barn, {number} times.\n\nIt was late.\n\n" for number in range(1200))
    pieces = list(cut_text(text))
    assert len(pieces) > 2
    assert "".join(pieces) == text
    assert [token for piece in pieces for token in tokenizer.encode(piece).ids] == tokenizer.encode(text).ids


def test_the_bytes_of_the_tokens_add_up_to_those_of_the_text(work: WorkFiles, tokenizer: Tokenizer) -> None:
    sizes = token_bytes(tokenizer)
    summary = json.loads(work.summary.read_text())
    for source in VALIDATION_SOURCES:
        assert int(sizes[np.asarray(open_tokens(work, source))].sum()) == summary[source]["bytes"]
        assert len(open_tokens(work, source)) == summary[source]["tokens"]
    assert sizes[tokenizer.encode("é").ids].sum() == 2


def test_numbers_are_read_digit_by_digit(tokenizer: Tokenizer) -> None:
    assert [tokenizer.id_to_token(token) for token in tokenizer.encode(" 12").ids] == ["Ġ", "1", "2"]
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    assert end_of_text_id(tokenizer) == 0


def test_preparing_again_keeps_what_is_there(data: Path, work: WorkFiles) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in work.directory.iterdir()}
    prepare_corpus(data, work, vocab_size=VOCAB_SIZE)
    assert {path.name: path.stat().st_mtime_ns for path in work.directory.iterdir()} == before


def test_words_that_stand_alone_are_counted_and_names_and_parts_are_not() -> None:
    counts = count_words(["The old man's well-known dog saw Anne and the dog ran."])
    assert counts == {"old": 1, "dog": 2, "saw": 1, "and": 1, "the": 1, "ran": 1}

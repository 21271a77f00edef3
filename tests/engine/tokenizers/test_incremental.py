"""Text comes out whole characters at a time, the same however it is cut, and equal to the library's own decoding."""

import json
import random

import pytest
from tokenizers import Tokenizer as LibraryTokenizer

from attendant_engine.tokenizers import Tokenizer
from tests.engine.tokenizers.conftest import DATA, LoadTokenizer

NAMES = ["gpt2", "bert-base-uncased", "mpt", "falcon", "phi-3", "stories260k"]
TEXTS = [json.loads(line)["text"] for line in (DATA / "reference_vectors.jsonl").read_text(encoding="utf-8").splitlines()]


def library(tokenizer: Tokenizer) -> LibraryTokenizer:
    return tokenizer._backend


def decoded_in_steps(tokenizer: Tokenizer, ids: list[int], rng: random.Random) -> str:
    decoder = tokenizer.incremental_decoder(skip_special_tokens=False)
    text, position = "", 0
    while position < len(ids):
        step = rng.randint(1, 3)
        text += decoder.push(ids[position : position + step])
        position += step
    return text + decoder.finish()


@pytest.mark.parametrize("name", NAMES)
def test_texts_decoded_in_steps_equal_the_librarys_whole_decoding(name: str, load_tokenizer: LoadTokenizer) -> None:
    tokenizer, rng = load_tokenizer(name), random.Random(1)
    for text in TEXTS:
        ids = list(tokenizer.encode(text, add_special_tokens=False).ids)
        expected = library(tokenizer).decode(ids, skip_special_tokens=False)
        assert decoded_in_steps(tokenizer, ids, rng) == expected
        assert tokenizer.decode(ids, skip_special_tokens=False) == expected


@pytest.mark.parametrize("name", ["gpt2", "bert-base-uncased", "mpt", "falcon"])
def test_random_ids_decode_as_the_library_does_even_where_they_are_no_text(name: str, load_tokenizer: LoadTokenizer) -> None:
    tokenizer, rng = load_tokenizer(name), random.Random(2)
    for _ in range(200):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randint(1, 12))]
        for skip in (False, True):
            assert tokenizer.decode(ids, skip_special_tokens=skip) == library(tokenizer).decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("name", ["phi-3", "stories260k"])
def test_random_pieces_decode_as_the_library_does_where_no_bytes_are_broken(name: str, load_tokenizer: LoadTokenizer) -> None:
    tokenizer, rng = load_tokenizer(name), random.Random(3)
    for _ in range(200):
        ids = [rng.randrange(259, tokenizer.vocab_size) for _ in range(rng.randint(1, 12))]
        assert tokenizer.decode(ids) == library(tokenizer).decode(ids)


@pytest.mark.parametrize("name", ["gpt2", "mpt", "phi-3", "stories260k"])
def test_no_step_ends_in_half_a_character(name: str, load_tokenizer: LoadTokenizer) -> None:
    tokenizer = load_tokenizer(name)
    text = "naïve 東京 🤖👩‍👩‍👧 \U0001f9ff Ωmega"
    decoder = tokenizer.incremental_decoder()
    pieces = [decoder.push([token_id]) for token_id in tokenizer.encode(text, add_special_tokens=False).ids]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == text
    assert "" in pieces, "some character of this text takes several tokens, so some step is silent"


def test_an_unfinished_character_is_marked_at_the_end_and_not_before(load_tokenizer: LoadTokenizer) -> None:
    tokenizer = load_tokenizer("gpt2")
    ids = tokenizer.encode("a🤖", add_special_tokens=False).ids
    decoder = tokenizer.incremental_decoder()
    assert decoder.push(ids[:-1]) == "a"
    assert decoder.finish() == "\ufffd"


def test_a_long_run_of_broken_bytes_is_decoded_as_it_comes(load_tokenizer: LoadTokenizer) -> None:
    tokenizer = load_tokenizer("stories260k")
    lone = tokenizer.token_to_id("<0x80>")
    assert lone is not None
    decoder = tokenizer.incremental_decoder()
    assert all(decoder.push([lone]) == "\ufffd" for _ in range(1000))


def test_a_continuation_keeps_its_leading_space_and_a_new_text_drops_it(load_tokenizer: LoadTokenizer) -> None:
    tokenizer = load_tokenizer("stories260k")
    begin, word = tokenizer.encode("Once", add_special_tokens=True).ids
    assert tokenizer.incremental_decoder(prompt_ids=[begin]).push([word]) == "Once"
    assert tokenizer.incremental_decoder(prompt_ids=[begin, word]).push([word]) == " Once"
    assert tokenizer.incremental_decoder().push([word, word]) == "Once Once"


@pytest.mark.parametrize("name", ["gpt2", "stories260k"])
def test_token_bytes_join_to_the_text_they_encode(name: str, load_tokenizer: LoadTokenizer) -> None:
    tokenizer = load_tokenizer(name)
    text = "Lily said: 東京 🤖\n"
    joined = b"".join(tokenizer.token_bytes(token_id) for token_id in tokenizer.encode(text, add_special_tokens=False).ids)
    assert joined.decode("utf-8").removeprefix(" ") == text


def test_ids_outside_the_vocabulary_add_nothing(load_tokenizer: LoadTokenizer) -> None:
    tokenizer = load_tokenizer("gpt2")
    assert tokenizer.decode([10**9, *tokenizer.encode("hi", add_special_tokens=False).ids, 50257]) == "hi"
    assert tokenizer.token_bytes(10**9) == b""
    assert tokenizer.id_to_token(10**9) is None

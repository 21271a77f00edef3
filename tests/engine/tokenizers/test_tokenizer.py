"""What encoding adds, refuses and reports."""

import json
import struct
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers.decoders import CTC
from tokenizers.models import WordLevel

from attendant_engine.errors import CheckpointError, InvalidRequestError
from attendant_engine.tokenizers import Tokenizer
from tests.engine.tokenizers.conftest import DATA, LoadTokenizer


def write_word_level(directory: Path, **settings: object) -> LibraryTokenizer:
    """A tokenizer.json of three words, with settings beside it."""
    tokenizer = LibraryTokenizer(WordLevel({"<unk>": 0, "red": 1, "ball": 2}, unk_token="<unk>"))
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer


def test_marks_go_around_a_text_only_when_asked_for(load_tokenizer: LoadTokenizer) -> None:
    bert = load_tokenizer("bert-base-uncased")
    plain = bert.encode("Hello, world", add_special_tokens=False)
    marked = bert.encode("Hello, world", add_special_tokens=True)
    assert marked.ids == (101, *plain.ids, 102)
    assert plain.offsets == ((0, 5), (5, 6), (7, 12))


def test_the_second_text_of_a_pair_is_in_segment_one(load_tokenizer: LoadTokenizer) -> None:
    bert = load_tokenizer("bert-base-uncased")
    encoding = bert.encode("one two", add_special_tokens=True, pair="three")
    assert encoding.type_ids == (0, 0, 0, 0, 1, 1)
    assert encoding.ids == (101, *bert.encode("one two", add_special_tokens=False).ids, 102, 2093, 102)


def test_an_empty_prompt_of_the_story_model_is_its_begin_token(load_tokenizer: LoadTokenizer) -> None:
    assert load_tokenizer("stories260k").encode("", add_special_tokens=True).ids == (1,)


def test_marks_inside_a_text_are_marks_or_plain_text_as_asked(load_tokenizer: LoadTokenizer) -> None:
    gpt2 = load_tokenizer("gpt2")
    text = "a<|endoftext|>b"
    assert gpt2.encode(text, add_special_tokens=False).ids == (64, 50256, 65)
    plain = gpt2.encode(text, add_special_tokens=False, allow_special=False)
    assert 50256 not in plain.ids
    assert gpt2.decode(plain.ids) == text


def test_special_tokens_are_left_out_of_decoded_text_unless_asked_for(load_tokenizer: LoadTokenizer) -> None:
    gpt2 = load_tokenizer("gpt2")
    assert gpt2.decode([64, 50256, 65]) == "ab"
    assert gpt2.decode([64, 50256, 65], skip_special_tokens=False) == "a<|endoftext|>b"


@pytest.mark.parametrize("text", ["\ud800", "ok \udfff", "\ude00\ud83d"])
def test_a_lone_surrogate_is_refused_with_its_place(text: str, load_tokenizer: LoadTokenizer) -> None:
    tokenizer = load_tokenizer("gpt2")
    with pytest.raises(InvalidRequestError, match="lone surrogate"):
        tokenizer.encode(text, add_special_tokens=False)
    with pytest.raises(InvalidRequestError, match="lone surrogate"):
        tokenizer.encode("fine", add_special_tokens=False, pair=text)


def test_nul_and_control_characters_are_text(load_tokenizer: LoadTokenizer) -> None:
    gpt2 = load_tokenizer("gpt2")
    text = "a\x00b\x07\u2028\ufeff"
    assert gpt2.decode(gpt2.encode(text, add_special_tokens=False).ids) == text


def test_truncation_and_padding_that_the_file_asks_for_are_not_done(tmp_path: Path, load_tokenizer: LoadTokenizer) -> None:
    tokenizer = write_word_level(tmp_path)
    tokenizer.enable_truncation(max_length=1)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode("red", add_special_tokens=False).ids == (1,)


def test_named_tokens_are_read_from_strings_objects_and_the_special_tokens_map(tmp_path: Path) -> None:
    write_word_level(tmp_path, eos_token={"content": "ball"}, bos_token="red", model_max_length=1e30, add_bos_token=True)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "<unk>"}, "bos_token": "<unk>"}))
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    assert tokenizer.model_max_length is None
    info = tokenizer.info()
    assert info["bos_token"] == "red"
    assert info["eos_token"] == "ball"
    assert info["add_bos_token"] is True
    assert info["vocab_size"] == 3
    assert info["chat_template"] is None
    json.dumps(info)


def test_the_longest_input_is_that_of_the_settings(tmp_path: Path) -> None:
    write_word_level(tmp_path, model_max_length=512)
    assert Tokenizer.load(tmp_path).model_max_length == 512


def test_words_without_a_decoder_are_joined_by_spaces(tmp_path: Path) -> None:
    library = write_word_level(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.decode([1, 2, 1]) == library.decode([1, 2, 1]) == "red ball red"


def test_cased_bert_keeps_case(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nAnna\nanna\n")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert Tokenizer.load(tmp_path).encode("Anna", add_special_tokens=True).ids == (2, 5, 3)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert Tokenizer.load(tmp_path).encode("Anna", add_special_tokens=True).ids == (2, 6, 3)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no tokenizer"),
        ({"tokenizer.json": "{"}, "damaged"),
        ({"tokenizer.json": "{}"}, "damaged"),
        ({"vocab.txt": "a\nb\n"}, r"lacks \[CLS\]"),
        ({"vocab.json": "[]", "merges.txt": ""}, "damaged"),
        ({"vocab.txt": "[CLS]", "tokenizer_config.json": "[]"}, "tokenizer_config.json must hold a JSON object"),
        ({"vocab.txt": "[CLS]", "tokenizer_config.json": "\x00"}, "tokenizer_config.json is not valid JSON"),
    ],
)
def test_a_broken_tokenizer_is_one_clear_error(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.load(tmp_path)


def test_a_decoder_that_cannot_go_token_by_token_is_refused(tmp_path: Path) -> None:
    tokenizer = write_word_level(tmp_path)
    tokenizer.decoder = CTC()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="decoder 'CTC' is not supported"):
        Tokenizer.load(tmp_path)


def test_the_story_tokenizer_merges_as_llama2c_does(load_tokenizer: LoadTokenizer) -> None:
    """Against llama2.c's own algorithm: repeatedly merge the neighbours whose union has the best score."""
    data = (DATA.parent / "stories260k" / "tok512.bin").read_bytes()
    scores = read_llama2c_scores(data)
    tokenizer = load_tokenizer("stories260k")
    for text in ["Once upon a time", 'Lily\'s mom said, "No!"  Two  spaces', "zoo\nqqq 東京 é", " leading", "a"]:
        assert list(tokenizer.encode(text, add_special_tokens=False).ids) == llama2c_encode(text, scores)


def read_llama2c_scores(data: bytes) -> dict[str, tuple[int, float]]:
    pieces: dict[str, tuple[int, float]] = {}
    position = 4
    while position < len(data):
        score, length = struct.unpack_from("<fi", data, position)
        position += 8 + length
        pieces[data[position - length : position].decode()] = (len(pieces), score)
    return pieces


def llama2c_encode(text: str, pieces: dict[str, tuple[int, float]]) -> list[int]:
    ids: list[int] = [pieces[" "][0]]
    for character in text:
        ids += [pieces[character][0]] if character in pieces else [byte + 3 for byte in character.encode()]
    by_id = {token_id: piece for piece, (token_id, _) in pieces.items()}
    while True:
        unions = [(by_id[left] + by_id[right], index) for index, (left, right) in enumerate(pairwise(ids))]
        known = [(-pieces[union][1], index, union) for union, index in unions if union in pieces]
        if not known:
            return ids
        _, index, union = min(known)
        ids[index : index + 2] = [pieces[union][0]]

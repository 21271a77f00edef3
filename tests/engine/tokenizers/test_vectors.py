"""Ids equal the published vectors of every vocabulary that is there, and decode back to the library's text."""

import json
from pathlib import Path

import pytest

from tests.engine.tokenizers.conftest import DATA, LoadTokenizer

DIRECTORY_BY_NAME = {"gpt-2": "gpt2", "bert-bge": "bert-base-uncased", "bert_base_uncased": "bert-base-uncased"}


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ["gpt2", "bert_base_uncased"])
def test_every_reference_vector_is_reproduced(name: str, load_tokenizer: LoadTokenizer) -> None:
    tokenizer = load_tokenizer(DIRECTORY_BY_NAME.get(name, name))
    vectors = rows(DATA / "reference_vectors.jsonl")
    assert len(vectors) == 150
    for row in vectors:
        encoding = tokenizer.encode(str(row["text"]), add_special_tokens=False, allow_special=False)
        assert list(encoding.ids) == row[name], row["text"]


@pytest.mark.parametrize("name", ["gpt-2", "bert-bge", "mpt", "falcon", "phi-3"])
def test_every_llamacpp_vector_is_reproduced(name: str, load_tokenizer: LoadTokenizer) -> None:
    tokenizer = load_tokenizer(DIRECTORY_BY_NAME.get(name, name))
    vectors = rows(DATA / "llamacpp_vectors.jsonl")
    assert len(vectors) == 31
    for row in vectors:
        ids = row["ids"]
        assert isinstance(ids, dict)
        encoding = tokenizer.encode(str(row["text"]), add_special_tokens=False)
        assert list(encoding.ids) == ids[name], row["text"]

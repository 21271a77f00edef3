"""Vectors of tokens that share letters are alike, and tell the letters of words that no rule was learned from."""

import torch
from tokenizers import Tokenizer, models

from models.recipes.gpt.spelling import spelling_vectors

WIDTH = 384
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def vocabulary(num_words: int) -> list[str]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, 9, (num_words,), generator=generator).tolist()
    words = ["".join(LETTERS[at] for at in torch.randint(26, (length,), generator=generator).tolist()) for length in lengths]
    return sorted({*words, "house", "horse", "table", "Ġhouse", "House"})


def tokenizer_of(tokens: list[str]) -> Tokenizer:
    return Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token=tokens[0]))


def test_tokens_that_share_letters_are_more_alike_and_rows_have_about_unit_variance() -> None:
    tokens = vocabulary(400)
    vectors = dict(zip(tokens, spelling_vectors(tokenizer_of(tokens), width=WIDTH, seed=0), strict=True))

    def alike(first: str, second: str) -> float:
        return float(torch.cosine_similarity(vectors[first], vectors[second], dim=0))

    assert alike("house", "House") > alike("house", "horse") > alike("house", "table")
    assert alike("house", "Ġhouse") > alike("house", "table")
    assert 0.9 < float(torch.stack(list(vectors.values())).std()) < 1.1


def test_a_linear_map_learned_of_some_words_tells_the_first_letter_of_others() -> None:
    tokens = vocabulary(1200)
    vectors = spelling_vectors(tokenizer_of(tokens), width=WIDTH, seed=0)
    first = torch.tensor([LETTERS.index(token.removeprefix("Ġ")[0].lower()) for token in tokens])
    is_known = torch.arange(len(tokens)) % 4 != 0
    solved = torch.linalg.lstsq(vectors[is_known], torch.nn.functional.one_hot(first[is_known], 26).float()).solution
    told = (vectors[~is_known] @ solved).argmax(1)
    assert (told == first[~is_known]).float().mean() > 0.9


def test_vectors_follow_from_the_seed() -> None:
    tokenizer = tokenizer_of(vocabulary(50))
    first, again, other = (spelling_vectors(tokenizer, width=WIDTH, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)

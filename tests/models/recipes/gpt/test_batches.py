"""Batches go through each source once before they repeat it, and a run that resumes sees what it would have seen."""

import numpy as np
import pytest
import torch

from models.recipes.gpt.batches import BatchSource, TextSource
from models.recipes.gpt.episodes import Window
from models.recipes.gpt.mixture import ECHOES, EPISODES, LIST_EPISODES, WORD_EPISODES, Mixture, mixture_at

WINDOW = 8


class NumberedEpisodes:
    """Windows that are their own number over and over."""

    def window(self, number: int, length: int) -> Window:
        return Window(token_ids=np.full(length, number, dtype=np.uint16), weights=np.full(length, 0.5, dtype=np.float32))


def text_source(num_tokens: int = 100, *, seed: int = 1, name: str = "text") -> TextSource:
    return TextSource(np.arange(1000, 1000 + num_tokens, dtype=np.uint16), window=WINDOW, seed=seed, name=name)


def batch_source(counts: dict[str, int] | None = None) -> BatchSource:
    return BatchSource({"text": text_source()}, {EPISODES: NumberedEpisodes()}, window=WINDOW, seed=4, counts=counts)


def test_an_epoch_has_every_window_once_in_another_order_than_the_next() -> None:
    source = text_source()
    epochs = [[source.window(number).tolist() for number in range(first, first + 11)] for first in (0, 11)]
    for windows in epochs:
        assert all(window == list(range(window[0], window[0] + WINDOW + 1)) for window in windows)
        starts = sorted(window[0] for window in windows)
        assert starts == list(range(starts[0], starts[0] + 11 * WINDOW, WINDOW))
    assert epochs[0] != epochs[1]


def test_a_source_too_short_for_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="text has 12 tokens, too few for windows of 8"):
        text_source(12)


def test_a_batch_source_with_the_counts_of_another_goes_on_as_that_would() -> None:
    mixture = Mixture(shares={"text": 0.6, EPISODES: 0.4})
    whole = batch_source()
    expected = [whole.draw(step, 4, mixture) for step in range(6)]
    first = batch_source()
    for step in range(3):
        first.draw(step, 4, mixture)
    resumed = batch_source(first.counts)
    for step in range(3, 6):
        batch = resumed.draw(step, 4, mixture)
        assert torch.equal(batch.token_ids, expected[step].token_ids)
        assert torch.equal(batch.targets, expected[step].targets)
    assert sum(resumed.counts.values()) == 24


def test_targets_are_the_next_tokens_and_weights_go_with_them() -> None:
    batch = batch_source().draw(0, 6, Mixture(shares={"text": 0.5, EPISODES: 0.5}))
    is_text = batch.token_ids[:, 0] >= 1000
    assert is_text.any()
    assert not is_text.all()
    assert torch.equal(batch.targets[is_text], batch.token_ids[is_text] + 1)
    assert (batch.weights[is_text] == 1.0).all()
    assert (batch.weights[~is_text] == 0.5).all()


@pytest.mark.parametrize("num_tokens", [0, 3_000_000, 6_000_000, 50_000_000])
@pytest.mark.parametrize("is_decaying", [False, True])
def test_the_shares_of_a_mixture_sum_to_one(num_tokens: int, is_decaying: bool) -> None:
    assert sum(mixture_at(num_tokens, is_decaying=is_decaying).shares.values()) == pytest.approx(1.0)


def test_hard_text_comes_later_than_simple_text() -> None:
    assert "pd_fiction_tier4" not in mixture_at(0, is_decaying=False).shares
    assert "pd_fiction_tier2" not in mixture_at(0, is_decaying=False).shares
    assert "pd_fiction_tier2" in mixture_at(5_000_000, is_decaying=False).shares
    assert "pd_fiction_tier4" in mixture_at(10_000_000, is_decaying=False).shares


def test_each_thing_that_learning_from_examples_takes_has_its_time() -> None:
    most = [
        max(mixture_at(num_tokens, is_decaying=False).shares.items(), key=lambda item: item[1] if "pd" not in item[0] else 0.0)[0]
        for num_tokens in (3_000_000, 6_000_000, 20_000_000)
    ]
    assert most == [LIST_EPISODES, WORD_EPISODES, EPISODES]
    assert all(mixture_at(num_tokens, is_decaying=False).shares[ECHOES] > 0 for num_tokens in (0, 3_000_000, 6_000_000, 20_000_000))

"""The learning rate warms up, holds, and falls to zero over the last fifth, whenever that begins."""

import pytest

from models.recipes.gpt.schedule import Budget, Decay, rate_factor


def test_the_rate_rises_holds_and_falls_to_zero() -> None:
    decay = Decay(start_tokens=800, num_tokens=200)
    factors = [rate_factor(tokens, warmup_tokens=100, decay=decay if tokens >= 800 else None) for tokens in range(0, 1001, 50)]
    assert factors[0] < 0.02
    assert factors[1] == pytest.approx(0.51)
    assert factors[2:17] == [1.0] * 15
    assert factors[17:] == pytest.approx([0.75, 0.5, 0.25, 0.0])


@pytest.mark.parametrize("start_tokens", [1, 1000, 60_000_000])
def test_a_fall_begun_anywhere_is_a_fifth_of_the_whole(start_tokens: int) -> None:
    decay = Decay.from_here(start_tokens)
    assert decay.num_tokens == pytest.approx(0.2 * (start_tokens + decay.num_tokens), abs=1)
    assert not decay.is_over(start_tokens)
    assert decay.is_over(start_tokens + decay.num_tokens)


def test_a_later_fall_begins_lower_and_ends_at_zero_too() -> None:
    decay = Decay(start_tokens=1000, num_tokens=400, first=0.4)
    assert [rate_factor(tokens, warmup_tokens=100, decay=decay) for tokens in (1000, 1200, 1400)] == pytest.approx([0.4, 0.2, 0.0])


def test_the_part_of_a_budget_that_runs_out_first_counts() -> None:
    budget = Budget(seconds=100.0, num_tokens=1000)
    assert budget.used_share(seconds=50.0, num_tokens=100) == 0.5
    assert budget.used_share(seconds=50.0, num_tokens=900) == 0.9
    assert Budget(num_tokens=1000).used_share(seconds=1e9, num_tokens=10) == 0.01


def test_training_without_a_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="give --hours or --tokens"):
        Budget()

"""The uniform numbers are uniform, and are functions of their three inputs."""

import itertools
import math

from attendant_engine.decoding.draws import draw_uniform


def test_a_draw_depends_on_seed_index_and_position_alone_and_on_each() -> None:
    assert draw_uniform(1, 2, 3) == draw_uniform(1, 2, 3)
    assert len({draw_uniform(*counter) for counter in [(1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0), (3, 2, 1)]}) == 5


def test_any_integer_is_a_seed() -> None:
    for seed in (0, -1, 2**63, 2**64 - 1, -(2**63)):
        assert 0.0 <= draw_uniform(seed, 0, 0) < 1.0


def test_draws_fill_the_unit_interval_evenly() -> None:
    num_draws, num_bins = 20_000, 20
    counts = [0] * num_bins
    for position in range(num_draws):
        counts[int(draw_uniform(7, 0, position) * num_bins)] += 1
    expected = num_draws / num_bins
    chi_squared = sum((count - expected) ** 2 / expected for count in counts)
    assert chi_squared < 43.8  # the 99.9th percentile for 19 degrees of freedom


def test_neighbouring_positions_are_uncorrelated() -> None:
    draws = [draw_uniform(3, 0, position) for position in range(20_000)]
    mean = sum(draws) / len(draws)
    variance = sum((x - mean) ** 2 for x in draws) / len(draws)
    covariance = sum((x - mean) * (y - mean) for x, y in itertools.pairwise(draws)) / len(draws)
    assert abs(covariance / variance) < 4 / math.sqrt(len(draws))

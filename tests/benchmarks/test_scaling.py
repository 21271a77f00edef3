"""What counts as a fall of throughput between batches."""

from benchmarks.scaling import Figures, falls


def _figures(**tokens_per_s: float) -> dict[int, Figures]:
    return {int(batch[1:]): Figures(decode_per_s=[speed, speed, 1e9]) for batch, speed in tokens_per_s.items()}


def test_rising_throughput_and_ties_within_the_noise_are_no_falls() -> None:
    assert falls([1, 2, 4], _figures(b1=100.0, b2=180.0, b4=177.0)) == []


def test_a_fall_names_the_batch_and_the_best_smaller_one() -> None:
    assert falls([1, 2, 4, 8], _figures(b1=100.0, b2=180.0, b4=150.0, b8=200.0)) == ["4 sequences: 150 tokens/s after 180 at 2"]


def test_falls_add_up_however_slow_each_is() -> None:
    found = falls([1, 2, 4, 8], _figures(b1=100.0, b2=99.0, b4=98.0, b8=97.0))
    assert [line.partition(":")[0] for line in found] == ["8 sequences"]

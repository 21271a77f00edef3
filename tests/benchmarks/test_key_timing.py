"""The measure of a key's timing sees a comparison that stops early, and stays quiet where times come from one distribution."""

import random

from attendant_server.auth import ApiKeys
from benchmarks.key_timing import KEY_CHARS, MAX_T, kinds_of, measure, welch_t


def test_times_of_one_distribution_do_not_differ_and_a_shift_of_a_hundredth_does() -> None:
    draws = random.Random(1)
    first = [round(draws.gauss(1000, 20)) for _ in range(20_000)]
    second = [round(draws.gauss(1000, 20)) for _ in range(20_000)]
    assert abs(welch_t(first, second)) < MAX_T
    assert welch_t([time_ns + 10 for time_ns in second], first) > MAX_T


def test_the_slowest_do_not_count() -> None:
    draws = random.Random(2)
    first = [round(draws.gauss(1000, 20)) for _ in range(20_000)]
    second = [round(draws.gauss(1000, 20)) for _ in range(19_800)] + [10**9] * 200
    assert abs(welch_t(first, second)) < MAX_T


def test_every_kind_is_wrong_of_one_length_and_measured_as_often() -> None:
    secret_keys = ["a" * KEY_CHARS, "b" * KEY_CHARS]
    kinds = kinds_of(secret_keys)
    assert {len(value) for value in kinds.values()} == {len("Bearer ") + KEY_CHARS}
    assert not {f"Bearer {key}" for key in secret_keys} & set(kinds.values())
    keys = ApiKeys.parse("\n".join(f"t: {key}" for key in secret_keys))
    times_ns = measure(keys, kinds, 10)
    assert {len(times) for times in times_ns.values()} == {10}

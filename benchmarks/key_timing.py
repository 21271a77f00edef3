"""Whether the time of a refusal says how close a key was: ``python -m benchmarks.key_timing``.

Keys that are wrong in different ways are tried in turn, in one process and without a network, where a difference would show
most. For each pair: medians, and Welch's t of the times below the 95th percentile, as dudect does (Reparaz, Balasch and
Verbauwhede, "Dude, is my code constant time?", 2017). Beyond 4.5 on either side the times differ.
"""

import argparse
import gc
import math
import random
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from statistics import fmean, median, variance

from attendant_server.auth import ApiKeys
from attendant_server.errors import ServingError
from benchmarks.results_file import markdown_table, write_results

NUM_TRIES = 100_000
NUM_KEYS = 100
KEY_CHARS = 32
MAX_T = 4.5
_KEPT = 0.95
_NUM_WARM = 2_000


def measure(keys: ApiKeys, kinds: Mapping[str, str], num_tries: int, *, seed: int = 0) -> dict[str, list[int]]:
    """Return the nanoseconds of ``num_tries`` refusals of each kind of ``Authorization`` value, in an order drawn anew each round."""
    draws = random.Random(seed)
    names = list(kinds)
    times_ns: dict[str, list[int]] = {name: [] for name in names}
    for round_index in range(num_tries + _NUM_WARM):
        draws.shuffle(names)
        for name in names:
            # A new object each time, as a request brings one: nothing about it is cached.
            value = kinds[name][:7] + kinds[name][7:]
            started_ns = time.perf_counter_ns()
            with suppress(ServingError):
                keys.authenticate(value)
            spent_ns = time.perf_counter_ns() - started_ns
            if round_index >= _NUM_WARM:
                times_ns[name].append(spent_ns)
    return times_ns


def welch_t(first: Sequence[int], second: Sequence[int]) -> float:
    """Return Welch's t of the times that are not among the slowest, which are the system's."""
    limit = sorted((*first, *second))[int(_KEPT * (len(first) + len(second)))]
    a, b = [time_ns for time_ns in first if time_ns < limit], [time_ns for time_ns in second if time_ns < limit]
    if len(a) < 2 or len(b) < 2:
        return math.inf
    error = math.sqrt(variance(a) / len(a) + variance(b) / len(b))
    return (fmean(a) - fmean(b)) / error if error else 0.0


def kinds_of(keys: Sequence[str]) -> dict[str, str]:
    """Return a wrong ``Authorization`` value of each kind, all of one length, the one that shares nothing first."""

    def spoilt(key: str, index: int) -> str:
        return key[:index] + ("x" if key[index] != "x" else "y") + key[index + 1 :]

    return {
        "nothing in common": "Bearer " + "~" * KEY_CHARS,
        "nothing in common, again": "Bearer " + "^" * KEY_CHARS,
        "first key but its last character": "Bearer " + spoilt(keys[0], KEY_CHARS - 1),
        "first key but its first character": "Bearer " + spoilt(keys[0], 0),
        "last key but its last character": "Bearer " + spoilt(keys[-1], KEY_CHARS - 1),
    }


def main() -> int:
    """Measure, print and write the table; return 1 where a difference shows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.key_timing", description=__doc__.partition("\n")[0])
    parser.add_argument("--tries", type=int, default=NUM_TRIES, help="of each kind")
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results")
    arguments = parser.parse_args()
    secret_keys = [secrets.token_hex(KEY_CHARS // 2) for _ in range(NUM_KEYS)]
    keys = ApiKeys.parse("\n".join(f"tenant-{index}: {key}" for index, key in enumerate(secret_keys)))
    gc.disable()
    times_ns = measure(keys, kinds_of(secret_keys), arguments.tries)
    gc.enable()
    base, *others = times_ns
    rows = [[base, f"{median(times_ns[base]):.0f}", ""]]
    rows += [[name, f"{median(times_ns[name]):.0f}", f"{welch_t(times_ns[name], times_ns[base]):+.2f}"] for name in others]
    table = markdown_table(("wrong key", "median ns", "Welch's t against the first"), rows)
    note = f"{arguments.tries} tries of each kind against {NUM_KEYS} keys; beyond {MAX_T:g} on either side is a difference."
    print(f"{table}\n\n{note}")
    if arguments.write:
        write_results("key-timing", f"python -m benchmarks.key_timing --tries {arguments.tries}", [table, note])
    return int(any(abs(welch_t(times_ns[name], times_ns[base])) > MAX_T for name in others))


if __name__ == "__main__":
    sys.exit(main())

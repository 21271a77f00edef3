"""More replicas while too much waits or a cache is full, none where nothing runs, and no to and fro in between."""

import pytest

from attendant_server.hosting.autoscaling import CACHE, SEQUENCES, TARGET_WAITING_TOKENS, WAITING, autoscaling_config, wanted


def _wanted(*, waiting: float = 0.0, cache: float = 0.0, sequences: float = 1.0, num_replicas: int) -> int:
    """Ask for replicas that are all equally busy."""
    values = {WAITING: waiting, CACHE: cache, SEQUENCES: sequences}
    return wanted({name: [value] * num_replicas for name, value in values.items()}, num_replicas=num_replicas)


def test_nothing_running_wants_no_replica() -> None:
    assert _wanted(sequences=0.0, num_replicas=3) == 0
    assert _wanted(sequences=0.0, cache=0.5, num_replicas=3) == 0


def test_waiting_tokens_and_held_cache_each_want_more() -> None:
    assert _wanted(waiting=1.5 * TARGET_WAITING_TOKENS, num_replicas=2) == 3
    assert _wanted(cache=0.95, num_replicas=4) == 5
    assert _wanted(waiting=10 * TARGET_WAITING_TOKENS, num_replicas=1) == 10


def test_one_that_runs_anything_is_kept() -> None:
    assert _wanted(num_replicas=1) == 1


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("num_replicas", [2, 3, 8])
def test_the_same_load_on_fewer_replicas_does_not_want_more_again(share: float, num_replicas: int) -> None:
    total = share * TARGET_WAITING_TOKENS * num_replicas
    fewer = _wanted(waiting=total / num_replicas, num_replicas=num_replicas)
    assert 1 <= fewer <= num_replicas
    assert _wanted(waiting=total / fewer, num_replicas=fewer) == fewer or fewer == num_replicas


def test_a_model_begins_with_a_replica_even_where_none_need_be() -> None:
    config = autoscaling_config(min_replicas=0, max_replicas=4, initial_replicas=1, downscale_delay_s=60.0)
    assert (config.min_replicas, config.initial_replicas, config.max_replicas) == (0, 1, 4)
    assert autoscaling_config(min_replicas=2, max_replicas=4, initial_replicas=1, downscale_delay_s=60.0).initial_replicas == 2
    assert autoscaling_config(min_replicas=1, max_replicas=4, initial_replicas=9, downscale_delay_s=60.0).initial_replicas == 4

"""The workload counts what can be reused; simulated replicas reuse most of it, and all that is counted comes back to nothing."""

from benchmarks.routing_simulation import Simulation
from benchmarks.routing_workload import FewShotSets, Workload, few_shot


def test_what_can_be_reused_is_every_leading_block_that_was_there_before() -> None:
    first, other = tuple(range(40)), tuple(range(100, 140))
    assert Workload(prompts=(first, other)).num_reusable_tokens() == 0
    assert Workload(prompts=(first, first, (*first[:20], 7, *first[21:]))).num_reusable_tokens() == 32 + 16


def test_a_few_shot_workload_can_reuse_all_its_sets_but_the_first_time() -> None:
    workload = few_shot(num_sets=4, num_requests=40, set_tokens=64, query_tokens=16)
    assert len({prompt[:64] for prompt in workload.prompts}) == 4
    assert workload.num_reusable_tokens() == 36 * 64


def test_simulated_replicas_reuse_most_and_end_empty() -> None:
    simulation = Simulation(num_replicas=4, num_gateways=2, prefill_token_s=1e-4, step_s=1e-3, max_tokens=16)
    sets = FewShotSets(num_sets=5, set_tokens=256, query_tokens=16)
    result = simulation.run(sets, num_requests=300, requests_per_s=100.0)
    assert len(result.first_token_s) == 300 and min(result.first_token_s) > 0
    assert 0.9 < result.num_cached_tokens / (295 * 256) <= 1.0
    assert 0 < result.most_streams <= 300

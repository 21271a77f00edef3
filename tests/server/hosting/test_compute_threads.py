"""Compute threads sleep when they wait, unless the operator says otherwise."""

from attendant_server.hosting.compute_threads import apply_wait_policy, wait_policy


def test_an_environment_without_a_choice_gets_ours() -> None:
    environment = {"PATH": "/bin"}
    apply_wait_policy(environment)
    assert environment == {"PATH": "/bin"} | wait_policy()


def test_an_operators_choice_stays() -> None:
    for own in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}):
        environment = dict(own)
        apply_wait_policy(environment)
        assert environment == own

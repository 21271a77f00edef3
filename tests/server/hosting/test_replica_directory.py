from collections.abc import Mapping

from attendant_server.hosting.replica_directory import ReplicaDirectory


def _directory() -> ReplicaDirectory:
    return ReplicaDirectory(_replicas={})


def test_a_listener_hears_what_was_known_before_it_came_and_every_change_after() -> None:
    heard: list[tuple[str, dict[str, str]]] = []

    def listener(deployment: str, addresses: Mapping[str, str]) -> None:
        heard.append((deployment, dict(addresses)))

    directory = _directory()
    directory.update("a", {"r1": "h:1"})
    directory.listen(listener)
    directory.update("a", {"r1": "h:1", "r2": "h:2"})
    directory.update("b", {"r3": "h:3"})
    assert heard == [("a", {"r1": "h:1"}), ("a", {"r1": "h:1", "r2": "h:2"}), ("b", {"r3": "h:3"})]


def test_a_replica_that_died_is_taken_out_and_the_others_stay() -> None:
    heard: list[dict[str, str]] = []
    directory = _directory()
    directory.update("a", {"r1": "h:1", "r2": "h:2"})
    directory.listen(lambda _, addresses: heard.append(dict(addresses)))
    directory.discard("a", "r1")
    directory.discard("a", "unknown")
    directory.discard("never heard of", "r1")
    assert heard[1:] == [{"r2": "h:2"}, {"r2": "h:2"}, {}]

"""Which engine replicas Ray Serve runs right now, as one gateway process sees it.

Ray Serve tells its request routers; a router is made by Serve inside the gateway's process, from code pickled by
value, so it cannot be handed an object. This module is where the two meet: one directory a process, by necessity.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Listener = Callable[[str, Mapping[str, str]], None]
"""Called with a deployment's name and its replicas: link address by replica id."""


@dataclass(slots=True)
class ReplicaDirectory:
    """The last word from Serve, and who wants to hear it."""

    _replicas: dict[str, dict[str, str]]
    _listener: Listener | None = None

    def update(self, deployment: str, address_by_replica: Mapping[str, str]) -> None:
        """Take in what Serve says about one deployment."""
        self._replicas[deployment] = dict(address_by_replica)
        if self._listener is not None:
            self._listener(deployment, address_by_replica)

    def discard(self, deployment: str, replica_id: str) -> None:
        """Take in that a replica's process is gone."""
        remaining = {key: value for key, value in self._replicas.get(deployment, {}).items() if key != replica_id}
        self.update(deployment, remaining)

    def listen(self, listener: Listener) -> None:
        """Set who hears of changes, and tell what is known already."""
        self._listener = listener
        for deployment, address_by_replica in self._replicas.items():
            listener(deployment, address_by_replica)


_DIRECTORY = ReplicaDirectory(_replicas={})


def process_directory() -> ReplicaDirectory:
    """Return the directory of this process."""
    return _DIRECTORY

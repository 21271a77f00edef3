"""A Ray Serve request router that routes nothing of weight: it tells the gateway which engine replicas there are.

Requests travel over the link, so all a router is good for here is that Serve keeps it up to date about replicas and
their metadata. Serve pickles this module by value, hence the imports inside methods.
"""

from ray.serve.request_router import FIFOMixin, PendingRequest, ReplicaID, RequestRouter, RunningReplica


class ReplicaWatch(FIFOMixin, RequestRouter):
    """Passes every change of the replica set on to the process's ``ReplicaDirectory``."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Hear from Serve's controller which replicas run."""
        from attendant_server.hosting.replica_directory import process_directory

        super().update_replicas(replicas)
        addresses = {replica.replica_id.unique_id: str(replica.replica_metadata.get("link_address", "")) for replica in replicas}
        process_directory().update(self._deployment_id.name, addresses)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Hear that a replica's process is gone."""
        from attendant_server.hosting.replica_directory import process_directory

        super().on_replica_actor_died(replica_id)
        process_directory().discard(self._deployment_id.name, replica_id.unique_id)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Offer all replicas; only the gateway's one call at start asks."""
        return [candidate_replicas]

"""Keeps one link to every engine replica that there is, as replicas come and go.

A replica that is named no more gets no new requests; its link stays until the requests that it still serves have ended.
Runs on the gateway's event loop; what a link is made of is the maker's business.
"""

import asyncio
from collections.abc import Callable, Mapping

from attendant_server.gateway.served_model import ServedModel
from attendant_server.link.base import ReplicaLink

_POLL_S = 0.1

LinkMaker = Callable[[str, str], ReplicaLink]
"""Makes a link from a replica's id and address."""


class LinkPool:
    """The links of one gateway. ``models`` has the served model of each engine deployment by the deployment's name."""

    def __init__(self, models: Mapping[str, ServedModel], make_link: LinkMaker) -> None:
        self._models = dict(models)
        self._make_link = make_link
        self._links: dict[str, dict[str, ReplicaLink]] = {deployment: {} for deployment in models}
        self._retiring: set[asyncio.Task[None]] = set()

    def add(self, deployment: str, model: ServedModel) -> None:
        """Keep links to the replicas of one more deployment."""
        self._models[deployment], self._links[deployment] = model, {}

    async def remove(self, deployment: str) -> None:
        """Close the links to a deployment's replicas, whatever runs on them, and hear of it no more."""
        model, links = self._models.pop(deployment), self._links.pop(deployment)
        model.replicas.update(())
        await asyncio.gather(*(link.close() for link in links.values()))

    def update(self, deployment: str, address_by_replica: Mapping[str, str]) -> None:
        """Open links to replicas that are new, and retire those to replicas that are named no more."""
        if deployment not in self._models:
            return
        model, before = self._models[deployment], self._links[deployment]
        after = {
            replica_id: before.get(replica_id) or self._make_link(replica_id, address) for replica_id, address in address_by_replica.items()
        }
        self._links[deployment] = after
        model.replicas.update(after.values())
        for replica_id, link in before.items():
            if replica_id not in after:
                task = asyncio.ensure_future(self._retire(model, link))
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)

    async def close(self) -> None:
        """Close every link, whatever runs on it."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        links = [link for by_replica in self._links.values() for link in by_replica.values()]
        await asyncio.gather(*(link.close() for link in links))

    async def _retire(self, model: ServedModel, link: ReplicaLink) -> None:
        try:
            while model.replicas.num_in_flight(link):
                await asyncio.sleep(_POLL_S)
        finally:
            await link.close()

"""What every task of a gateway works with: text threads, request ids, metrics, and the way to engines."""

from dataclasses import dataclass, field
from functools import partial

from attendant_engine.types import ModelInfo
from attendant_server.gateway.admission import Terms
from attendant_server.gateway.calls import ActiveCall
from attendant_server.gateway.in_flight import InFlight, RequestIds
from attendant_server.gateway.served_model import ServedModel
from attendant_server.gateway.text_pool import TextPool
from attendant_server.metrics import GatewayMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolbox:
    """One a gateway, shared by its tasks."""

    metrics: GatewayMetrics
    text_pool: TextPool = field(default_factory=TextPool)
    request_ids: RequestIds = field(default_factory=RequestIds)

    def open_flight(self, model: ServedModel, call: ActiveCall, *, served_by: ModelInfo | None = None) -> InFlight:
        """Return a way to the model's engines that closes with the call; with ``served_by``, to those of that kind."""
        in_flight = InFlight(
            model.replicas,
            terms=Terms(deadline_s=call.deadline.at_s, tenant=call.context.tenant, tenant_weight=call.tenant_weight),
            on_failover=partial(self.metrics.failed_over, model.name),
            on_pick=partial(self.metrics.replica_picked, model.name),
            served_by=served_by,
        )
        call.hold(in_flight.close)
        return in_flight

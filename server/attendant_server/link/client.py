"""The gateway's end of the link: one engine replica across a gRPC stream of its own.

It reconnects for as long as it lives. A replica that falls silent, or says that its engine thread stands still, is not
ready, and its live requests end with ``not_ready`` so that they can go elsewhere.
"""

import asyncio
import logging
import random
from collections import deque
from typing import TypeAlias

import grpc
import grpc.aio

from attendant.link.v1 import link_pb2 as pb
from attendant.link.v1 import link_pb2_grpc
from attendant_engine.types import EngineRequest, GenerationRequest, ModelInfo
from attendant_server.errors import ServingError
from attendant_server.link import convert
from attendant_server.link.base import NOT_READY_TEXTS, OutputSink, ReplicaLoad
from attendant_server.link.prefix_digest import PrefixDigest
from attendant_server.link.server import CHANNEL_OPTIONS
from attendant_server.link.sinks import SinkTable

WINDOW = 4
"""Step messages on their way; one hides the round trip, four ride out a busy moment (measured: gateway and link design)."""

HEARTBEAT_LIMIT_S = 2.0
"""Eight heartbeats. At one second, replicas on cores that other work took too were given up and came back again and again."""

LOOKS_PER_LIMIT = 8
MIN_BACKOFF_S = 0.05
MAX_BACKOFF_S = 2.0
LOST_TEXT = "the replica that worked on this request was lost; try again"

_Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse]"

_log = logging.getLogger(__name__)


class LinkClient:
    """A ``ReplicaLink`` to the replica at ``address``; connects at once. To be made and closed on one running event loop."""

    def __init__(
        self,
        address: str,
        *,
        token: str,
        replica_id: str,
        gateway_id: str = "",
        window: int = WINDOW,
        heartbeat_limit_s: float = HEARTBEAT_LIMIT_S,
    ) -> None:
        self._replica_id = replica_id
        self._address = address
        self._hello = pb.Hello(token=token, gateway_id=gateway_id, window=window)
        self._heartbeat_limit_s = heartbeat_limit_s
        self._sinks = SinkTable()
        # At most one entry a live request and one a recent abort; admission bounds those.
        self._outbox: deque[pb.ConnectRequest] = deque()
        self._has_outbox = asyncio.Event()
        self._last_ack: int | None = None
        self._info: ModelInfo | None = None
        self._heartbeat: pb.Heartbeat | None = None
        self._load = ReplicaLoad()
        self._prefixes = PrefixDigest()
        self._metrics_text = b""
        self._is_welcomed = False
        self._was_heard = False
        self._is_closed = False
        self._task = asyncio.ensure_future(self._run())

    @property
    def replica_id(self) -> str:
        """The name it was given."""
        return self._replica_id

    @property
    def info(self) -> ModelInfo | None:
        """What it serves; None until it has said so."""
        return self._info

    @property
    def is_ready(self) -> bool:
        """Connected, loaded, not draining, and its engine thread moving."""
        return self._is_welcomed and self._heartbeat is not None and self._heartbeat.state == "ready"

    @property
    def status(self) -> str:
        """Return "ready", or a sentence that says why not."""
        if self.is_ready:
            return "ready"
        if self._is_closed:
            return NOT_READY_TEXTS["stopped"]
        if self._heartbeat is None:
            return "the replica does not answer"
        detail = f": {self._heartbeat.detail}" if self._heartbeat.detail else ""
        return NOT_READY_TEXTS.get(self._heartbeat.state, "the replica is starting") + detail

    @property
    def load(self) -> ReplicaLoad:
        """Its load at the last heartbeat."""
        return self._load

    @property
    def prefixes(self) -> PrefixDigest:
        """What its cache has, as far as heartbeats told; empty while it is not connected."""
        return self._prefixes

    @property
    def metrics_text(self) -> bytes:
        """Its metrics, about a second old at most; empty while it is not connected."""
        return self._metrics_text

    def submit(self, request: EngineRequest, sink: OutputSink) -> None:
        """Send a request. Raises ``ServingError`` not_ready."""
        if not self.is_ready:
            raise ServingError("not_ready", self.status)
        self._sinks.add(request, sink)
        if isinstance(request, GenerationRequest):
            self._post(pb.ConnectRequest(generate=convert.generation_to_proto(request)))
        else:
            self._post(pb.ConnectRequest(pool=convert.pooling_to_proto(request)))

    def abort(self, request_id: str) -> None:
        """Stop a request; its sink is not called again."""
        if self._sinks.discard(request_id):
            self._post(pb.ConnectRequest(abort=pb.Abort(request_id=request_id)))

    async def close(self) -> None:
        """Leave; live sinks get ``not_ready``."""
        self._is_closed = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._forget_connection(NOT_READY_TEXTS["stopped"])

    def _post(self, message: pb.ConnectRequest) -> None:
        self._outbox.append(message)
        self._has_outbox.set()

    async def _run(self) -> None:
        backoff_s = MIN_BACKOFF_S
        while True:
            try:
                await self._connect_once()
                reason = "the replica ended the link"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            except (asyncio.InvalidStateError, grpc.aio.UsageError):
                reason = "the replica went while it was written to"
            except Exception:
                _log.exception("the link to replica %s failed", self._replica_id)
                reason = "an error of our own"
            if self._is_welcomed:
                backoff_s = MIN_BACKOFF_S
                _log.warning("the link to replica %s is lost: %s", self._replica_id, reason)
            self._forget_connection(LOST_TEXT)
            # Spread, so that a restarted replica does not meet all gateways at once.
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)

    def _forget_connection(self, message: str) -> None:
        self._is_welcomed = False
        self._heartbeat = None
        self._load = ReplicaLoad()
        self._prefixes.clear()
        self._metrics_text = b""
        self._last_ack = None
        self._outbox.clear()
        self._sinks.fail_all(message)

    async def _connect_once(self) -> None:
        """Hold one connection until it breaks. Returns or raises when it has."""
        async with grpc.aio.insecure_channel(self._address, options=list(CHANNEL_OPTIONS)) as channel:
            call = link_pb2_grpc.LinkServiceStub(channel).Connect()
            tasks = [asyncio.ensure_future(work(call)) for work in (self._read, self._write, self._watch)]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if task.done() and not task.cancelled():
                        task.result()
            finally:
                call.cancel()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, call: _Call) -> None:
        # At the stream's end this raises what the replica ended it with, if that was an error.
        while isinstance(message := await call.read(), pb.ConnectResponse):
            self._receive(message)

    def _receive(self, message: pb.ConnectResponse) -> None:
        self._was_heard = True
        kind = message.WhichOneof("kind")
        if kind == "step":
            for output in convert.step_from_proto(message.step):
                self._sinks.dispatch(output)
            self._last_ack = message.step.sequence_number
            self._has_outbox.set()
        elif kind == "heartbeat":
            self._take_heartbeat(message.heartbeat)
        elif kind == "welcome":
            self._info = convert.model_from_proto(message.welcome.model)
            self._is_welcomed = True

    def _take_heartbeat(self, beat: pb.Heartbeat) -> None:
        before, self._heartbeat = self._heartbeat, beat
        self._load = ReplicaLoad(
            num_running=beat.num_running,
            num_waiting=beat.num_waiting,
            kv_cache_usage_ratio=beat.kv_cache_usage_ratio,
            num_queued_tokens=beat.num_queued_tokens,
        )
        self._prefixes.block_size = beat.block_size
        self._prefixes.update({**dict.fromkeys(beat.cached_prefix_keys, True), **dict.fromkeys(beat.dropped_prefix_keys, False)})
        if beat.metrics_text:
            self._metrics_text = beat.metrics_text
        if beat.state == "hung" and (before is None or before.state != "hung"):
            _log.error("replica %s answers but its engine stands still", self._replica_id)
            self._sinks.fail_all(self.status)

    async def _write(self, call: _Call) -> None:
        await call.write(pb.ConnectRequest(hello=self._hello))
        while True:
            await self._has_outbox.wait()
            self._has_outbox.clear()
            # One acknowledgement covers all before it.
            ack, self._last_ack = self._last_ack, None
            if ack is not None:
                await call.write(pb.ConnectRequest(ack=pb.Ack(sequence_number=ack)))
            while self._outbox:
                await call.write(self._outbox.popleft())

    async def _watch(self, call: _Call) -> None:
        """Return when the replica is silent.

        Counts looks, not seconds: when this process itself stood still, that is one look and no fault of the replica.
        """
        look_s = self._heartbeat_limit_s / LOOKS_PER_LIMIT
        num_silent = 0
        while True:
            await asyncio.sleep(look_s)
            num_silent = 0 if self._was_heard else num_silent + 1
            self._was_heard = False
            if num_silent >= LOOKS_PER_LIMIT:
                _log.warning("replica %s has been silent for %g s", self._replica_id, self._heartbeat_limit_s)
                return

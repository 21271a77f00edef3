"""The replica's end of the link: one engine, many gateways, one message a step to each.

Every gateway has a window of unacknowledged step messages; while it is full, outputs merge into the next message, so
memory is bounded by live sequences. When a gateway goes away, however it does, its requests are aborted.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator
from typing import Protocol

import grpc
import grpc.aio

from attendant.link.v1 import link_pb2 as pb
from attendant.link.v1 import link_pb2_grpc
from attendant_engine.types import EngineOutput, EngineRequest, GenerationRequest, OutputError, PooledOutput, SequenceOutput
from attendant_server.errors import ServingError
from attendant_server.link import convert
from attendant_server.link.base import ReplicaLink, ReplicaState
from attendant_server.link.pending import PendingOutputs
from attendant_server.link.prefix_digest import DigestFeed

HEARTBEAT_S = 0.25
METRICS_EVERY_S = 1.0
HELLO_LIMIT_S = 5.0
MAX_WINDOW = 64
MAX_KEYS_PER_HEARTBEAT = 2048
"""Keys of cached blocks, 16 KiB: at four heartbeats a second, what 131,000 tokens a second fill."""
MAX_REQUEST_BYTES = 64 << 20
"""Many times the longest prompt; whoever connects may send this much before the token is looked at."""

CHANNEL_OPTIONS = (
    # A message holds what all sequences gained in a step; prompts were bounded at the gateway.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A peer whose machine vanished closes nothing; this finds it out.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
)

_log = logging.getLogger(__name__)


class LinkedReplica(ReplicaLink, Protocol):
    """What is served: a replica in this process that can also say how its thread is."""

    @property
    def state(self) -> ReplicaState:
        """Where it is."""
        ...

    @property
    def detail(self) -> str:
        """Why loading failed."""
        ...


class LinkServer:
    """The gRPC server of one replica's link."""

    def __init__(self, replica: LinkedReplica, *, token: str, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._service = LinkService(replica, token=token, heartbeat_s=heartbeat_s)
        self._server: grpc.aio.Server | None = None

    async def start(self, host: str, port: int = 0) -> int:
        """Listen on ``host`` and return the port, a free one for 0. Call once, on the loop that runs it."""
        options = {**dict(CHANNEL_OPTIONS), "grpc.max_receive_message_length": MAX_REQUEST_BYTES}
        self._server = grpc.aio.server(options=list(options.items()))
        link_pb2_grpc.add_LinkServiceServicer_to_server(self._service, self._server)
        bound = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        await self._server.start()
        return bound

    async def stop(self, grace_s: float = 0.0) -> None:
        """End every gateway's stream; their requests are aborted."""
        if self._server is not None:
            await self._server.stop(grace_s)


class LinkService(link_pb2_grpc.LinkServiceServicer):
    """Serves one replica to the gateways that know ``token``."""

    def __init__(self, replica: LinkedReplica, *, token: str, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._replica = replica
        self._token = token.encode("utf-8")
        self._heartbeat_s = heartbeat_s

    async def Connect(
        self,
        request_iterator: AsyncIterator[pb.ConnectRequest],
        context: grpc.aio.ServicerContext[pb.ConnectRequest, pb.ConnectResponse],
    ) -> AsyncIterator[pb.ConnectResponse]:
        """Serve one gateway for as long as it stays."""
        try:
            async with asyncio.timeout(HELLO_LIMIT_S):
                first = await anext(aiter(request_iterator), None)
        except TimeoutError:
            first = None
        hello = first.hello if first is not None and first.WhichOneof("kind") == "hello" else pb.Hello()
        if not hmac.compare_digest(hello.token.encode("utf-8"), self._token):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the link's token is wrong")
        if not 1 <= hello.window <= MAX_WINDOW:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the window is {hello.window}; it must be from 1 to {MAX_WINDOW}")
        session = _Session(self._replica, window=hello.window, heartbeat_s=self._heartbeat_s)
        _log.info("gateway %s joined", hello.gateway_id)
        reader = asyncio.ensure_future(session.read(request_iterator))
        reader.add_done_callback(lambda _: session.wake())
        try:
            while not reader.done():
                async for message in session.due_messages():
                    yield message
                await session.wait()
        finally:
            reader.cancel()
            session.close()
            _log.info("gateway %s left", hello.gateway_id)


class _Session:
    """One gateway's stream: its live requests, what waits to be sent to it, and its window."""

    def __init__(self, replica: LinkedReplica, *, window: int, heartbeat_s: float) -> None:
        self._replica = replica
        self._window = window
        self._heartbeat_s = heartbeat_s
        self._pending = PendingOutputs()
        self._prefixes = DigestFeed(replica.prefixes)
        self._live: dict[str, int] = {}
        self._num_sent = 0
        self._num_acknowledged = 0
        self._is_welcomed = False
        self._wake = asyncio.Event()
        self._next_heartbeat_s = 0.0
        self._next_metrics_s = 0.0
        self._told_idle = False

    def wake(self) -> None:
        """Look again whether there is something to send."""
        self._wake.set()

    async def wait(self) -> None:
        """Return when there may be something to send, at the next heartbeat at the latest."""
        try:
            async with asyncio.timeout_at(self._next_heartbeat_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def due_messages(self) -> AsyncIterator[pb.ConnectResponse]:
        """Yield what is to be sent now; each ``yield`` waits until the one before was written."""
        if not self._is_welcomed and self._replica.info is not None:
            self._is_welcomed = True
            model = convert.model_to_proto(self._replica.info)
            yield pb.ConnectResponse(welcome=pb.Welcome(replica_id=self._replica.replica_id, model=model))
        if time.monotonic() >= self._next_heartbeat_s:
            self._next_heartbeat_s = time.monotonic() + self._heartbeat_s
            yield pb.ConnectResponse(heartbeat=self._heartbeat())
        if self._pending and self._num_sent - self._num_acknowledged < self._window:
            self._num_sent += 1
            yield pb.ConnectResponse(step=convert.step_to_proto(self._num_sent, self._pending.take()))

    async def read(self, requests: AsyncIterator[pb.ConnectRequest]) -> None:
        """Do what the gateway asks until it goes."""
        async for message in requests:
            kind = message.WhichOneof("kind")
            if kind == "generate":
                self._submit(convert.generation_from_proto(message.generate))
            elif kind == "pool":
                self._submit(convert.pooling_from_proto(message.pool))
            elif kind == "abort":
                self._abort(message.abort.request_id)
            elif kind == "ack":
                self._num_acknowledged = max(self._num_acknowledged, min(message.ack.sequence_number, self._num_sent))
                self.wake()

    def close(self) -> None:
        """Abort everything that this gateway had running."""
        self._prefixes.close()
        for request_id in list(self._live):
            self._abort(request_id)

    def _submit(self, request: EngineRequest) -> None:
        self._live[request.request_id] = request.n if isinstance(request, GenerationRequest) else 1
        try:
            self._replica.submit(request, self._on_output)
        except ServingError as error:
            refusal = OutputError(code=error.code, message=error.message, param=error.param, retry_after_s=error.retry_after_s)
            if isinstance(request, GenerationRequest):
                for index in range(request.n):
                    self._on_output(SequenceOutput(request_id=request.request_id, index=index, finish_reason="error", error=refusal))
            else:
                self._on_output(PooledOutput(request_id=request.request_id, error=refusal))

    def _abort(self, request_id: str) -> None:
        if self._live.pop(request_id, None) is not None:
            self._replica.abort(request_id)
        self._pending.discard(request_id)

    def _on_output(self, output: EngineOutput) -> None:
        if not isinstance(output, SequenceOutput) or output.finish_reason is not None or output.error is not None:
            left = self._live.get(output.request_id, 1) - 1
            if left:
                self._live[output.request_id] = left
            else:
                self._live.pop(output.request_id, None)
        self._pending.add(output)
        self.wake()

    def _heartbeat(self) -> pb.Heartbeat:
        replica, load = self._replica, self._replica.load
        metrics_text = b""
        is_idle = load.num_running == load.num_waiting == 0
        # That all work has ended is told at once, so that nobody who watches takes what is gone for still running.
        if time.monotonic() >= self._next_metrics_s or (is_idle and not self._told_idle):
            self._next_metrics_s = time.monotonic() + METRICS_EVERY_S
            self._told_idle = is_idle
            metrics_text = replica.metrics_text
        cached_keys, dropped_keys = self._prefixes.take(MAX_KEYS_PER_HEARTBEAT)
        return pb.Heartbeat(
            state=replica.state,
            detail=replica.detail,
            num_running=load.num_running,
            num_waiting=load.num_waiting,
            kv_cache_usage_ratio=load.kv_cache_usage_ratio,
            metrics_text=metrics_text,
            cached_prefix_keys=cached_keys,
            dropped_prefix_keys=dropped_keys,
            block_size=replica.prefixes.block_size,
            num_queued_tokens=load.num_queued_tokens,
        )

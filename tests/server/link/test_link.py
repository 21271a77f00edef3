"""The two ends of the link over real sockets: requests one way, one message a step the other, and every way to lose it."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from attendant.link.v1 import link_pb2 as pb
from attendant.link.v1 import link_pb2_grpc
from attendant_engine.types import EngineOutput, GenerationRequest, PooledOutput, PoolingRequest, SequenceOutput
from attendant_server.errors import ServingError
from attendant_server.link import server as link_server
from attendant_server.link.base import ReplicaLoad
from tests.server.fakes import model_info, says
from tests.server.link.replicas import TOKEN, ServedFake, linked, served, until


def _request(request_id: str, n: int = 1) -> GenerationRequest:
    return GenerationRequest(request_id=request_id, prompt_token_ids=(1, 2), n=n)


def _codes(outputs: list[EngineOutput]) -> list[str | None]:
    return [output.error.code if output.error is not None else None for output in outputs]


async def test_requests_arrive_and_outputs_return_to_their_own_sinks() -> None:
    replica = ServedFake()
    replica.answer = says("hey")
    got: dict[str, list[EngineOutput]] = {"a": [], "b": []}
    async with served(replica) as (_, address), linked(address) as link:
        await until(lambda: link.is_ready)
        assert link.info == replica.info
        for request_id, outputs in got.items():
            link.submit(_request(request_id, n=2), outputs.append)
        await until(lambda: all(sum(getattr(o, "finish_reason", None) is not None for o in outputs) == 2 for outputs in got.values()))
    for request_id, outputs in got.items():
        sequences = [output for output in outputs if isinstance(output, SequenceOutput)]
        assert {output.request_id for output in sequences} == {request_id}
        for index in range(2):
            assert bytes(t for o in sequences if o.index == index for t in o.token_ids if t < 256) == b"hey"
    assert replica.generations[0].prompt_token_ids == (1, 2)


async def test_a_vector_comes_back() -> None:
    replica = ServedFake()
    replica.answer = lambda request: [PooledOutput(request_id=request.request_id, values=(0.5, -1.25), num_prompt_tokens=2)]
    got: list[EngineOutput] = []
    async with served(replica) as (_, address), linked(address) as link:
        await until(lambda: link.is_ready)
        link.submit(PoolingRequest(request_id="p", prompt_token_ids=(1, 2), task="embedding"), got.append)
        await until(lambda: bool(got))
    assert got == [PooledOutput(request_id="p", values=(0.5, -1.25), num_prompt_tokens=2)]


async def test_heartbeats_bring_load_state_and_metrics() -> None:
    replica = ServedFake()
    replica.load_now = ReplicaLoad(num_running=3, num_waiting=2, kv_cache_usage_ratio=0.5)
    replica.metrics = b"# TYPE x gauge\nx 1\n"
    async with served(replica) as (_, address), linked(address) as link:
        await until(lambda: link.is_ready and link.metrics_text != b"")
        assert link.load == replica.load_now
        assert link.metrics_text == replica.metrics
        replica.state = "draining"
        await until(lambda: not link.is_ready)
        assert link.status == "the replica is draining"
        with pytest.raises(ServingError, match="draining"):
            link.submit(_request("a"), lambda output: None)


async def test_heartbeats_bring_cached_prefixes_a_bounded_number_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attendant_server.link.server.MAX_KEYS_PER_HEARTBEAT", 3)
    replica = ServedFake()
    replica.digest.block_size = 16
    replica.digest.update(dict.fromkeys(range(10), True))
    replica.load_now = ReplicaLoad(num_queued_tokens=77)
    async with served(replica) as (_, address), linked(address) as link:
        sizes: list[int] = []
        link.prefixes.watch(lambda changes: sizes.append(len(changes)))
        await until(lambda: link.prefixes.keys == replica.digest.keys)
        assert max(sizes) == 3
        assert (link.prefixes.block_size, link.load.num_queued_tokens) == (16, 77)
        replica.digest.update({2**63 + 1: True, 5: False})
        await until(lambda: link.prefixes.keys == replica.digest.keys)
    assert link.prefixes.keys == set()


async def test_metrics_come_with_the_heartbeat_that_says_that_all_work_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attendant_server.link.server.METRICS_EVERY_S", 1000.0)  # not by the clock, after the first
    replica = ServedFake()
    replica.load_now = ReplicaLoad(num_running=1)
    replica.metrics = b"# TYPE x gauge\nx 1\n"
    async with served(replica) as (_, address), linked(address) as link:
        await until(lambda: link.metrics_text != b"")
        replica.metrics = b"# TYPE x gauge\nx 0\n"
        replica.load_now = ReplicaLoad()
        await until(lambda: link.load == ReplicaLoad())
        assert link.metrics_text == replica.metrics


async def test_a_loading_replica_says_so_and_introduces_itself_when_it_has_loaded() -> None:
    replica = ServedFake()
    replica.info = None
    replica.state = "loading"
    async with served(replica) as (_, address), linked(address) as link:
        await until(lambda: "loading" in link.status)
        assert link.info is None
        replica.state, replica.detail = "failed", "weights are missing"
        await until(lambda: link.status.endswith("weights are missing"))
        replica.state, replica.info = "ready", model_info(name="late")
        await until(lambda: link.is_ready)
        assert link.info == replica.info


async def test_aborting_reaches_the_replica_and_silences_the_sink() -> None:
    replica = ServedFake()
    got: list[EngineOutput] = []
    async with served(replica) as (_, address), linked(address) as link:
        await until(lambda: link.is_ready)
        link.submit(_request("a"), got.append)
        await until(lambda: bool(replica.submitted))
        link.abort("a")
        link.abort("unknown")
        await until(lambda: replica.aborted == ["a"])
        replica.emit(SequenceOutput(request_id="a", token_ids=(5,)))
    assert got == []


async def test_a_replica_that_ends_fails_live_requests_and_is_found_again_when_it_returns() -> None:
    replica = ServedFake()
    got: list[EngineOutput] = []
    async with served(replica) as (server, address), linked(address) as link:
        await until(lambda: link.is_ready)
        link.submit(_request("a", n=2), got.append)
        await until(lambda: bool(replica.submitted))
        await server.stop()
        await until(lambda: len(got) == 2)
        assert _codes(got) == ["not_ready", "not_ready"]
        assert not link.is_ready
        assert link.metrics_text == b""
        assert replica.aborted == ["a"]
        await server.start("127.0.0.1", int(address.rpartition(":")[2]))
        await until(lambda: link.is_ready)


async def test_a_silent_replica_is_not_ready_within_the_heartbeat_limit() -> None:
    replica = ServedFake()
    got: list[EngineOutput] = []
    async with served(replica, heartbeat_s=30.0) as (_, address), linked(address, heartbeat_limit_s=0.2) as link:
        await until(lambda: link.is_ready)
        link.submit(_request("a"), got.append)
        await until(lambda: bool(got))
        assert _codes(got) == ["not_ready"]


async def test_an_engine_that_stands_still_under_a_live_server_is_not_ready_until_it_moves() -> None:
    replica = ServedFake()
    got: list[EngineOutput] = []
    async with served(replica) as (_, address), linked(address) as link:
        await until(lambda: link.is_ready)
        link.submit(_request("a"), got.append)
        replica.state = "hung"
        await until(lambda: bool(got))
        assert _codes(got) == ["not_ready"]
        assert "no sign of life" in link.status
        replica.state = "ready"
        await until(lambda: link.is_ready)


async def test_a_gateway_that_goes_leaves_nothing_running() -> None:
    replica = ServedFake()
    async with served(replica) as (_, address):
        async with linked(address) as link:
            await until(lambda: link.is_ready)
            for request_id in ("a", "b"):
                link.submit(_request(request_id), lambda output: None)
            await until(lambda: len(replica.submitted) == 2)
        await until(lambda: sorted(replica.aborted) == ["a", "b"])


async def test_two_gateways_share_a_replica_and_neither_sees_the_others_outputs() -> None:
    replica = ServedFake()
    replica.answer = says("x")
    got: dict[str, list[EngineOutput]] = {"a": [], "b": []}
    async with served(replica) as (_, address), linked(address) as one, linked(address) as two:
        await until(lambda: one.is_ready and two.is_ready)
        one.submit(_request("a"), got["a"].append)
        two.submit(_request("b"), got["b"].append)
        await until(lambda: all(got.values()))
    for request_id, outputs in got.items():
        assert {output.request_id for output in outputs} == {request_id}


async def test_a_refusal_by_the_replica_comes_to_the_sink_of_every_sequence() -> None:
    replica = ServedFake()
    got: list[EngineOutput] = []
    async with served(replica) as (_, address), linked(address) as link:
        await until(lambda: link.is_ready)
        replica.is_up = False
        link.submit(_request("a", n=3), got.append)
        await until(lambda: len(got) == 3)
    assert _codes(got) == ["not_ready"] * 3


async def test_closing_ends_live_requests_and_the_link_says_so() -> None:
    replica = ServedFake()
    got: list[EngineOutput] = []
    async with served(replica) as (_, address), linked(address) as link:
        await until(lambda: link.is_ready)
        link.submit(_request("a"), got.append)
        await link.close()
        assert _codes(got) == ["not_ready"]
        assert link.status == "the replica has stopped"


async def test_a_sink_that_raises_harms_no_other() -> None:
    replica = ServedFake()
    replica.answer = says("x")
    got: list[EngineOutput] = []

    def broken(output: EngineOutput) -> None:
        raise RuntimeError("broken on purpose")

    async with served(replica) as (_, address), linked(address) as link:
        await until(lambda: link.is_ready)
        link.submit(_request("a"), broken)
        link.submit(_request("b"), got.append)
        await until(lambda: bool(got))
        assert link.is_ready


class RawGateway:
    """A gateway that reads and acknowledges only when told to."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self.call: Any = link_pb2_grpc.LinkServiceStub(self._channel).Connect()

    async def __aenter__(self) -> "RawGateway":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()
        await self._channel.close()

    async def step(self) -> pb.Step:
        """Read until the next step message."""
        while True:
            message = await self.call.read()
            assert isinstance(message, pb.ConnectResponse)
            if message.WhichOneof("kind") == "step":
                return message.step

    async def heartbeats(self, count: int) -> list[str | None]:
        """Read ``count`` heartbeats; return the kinds of all messages meanwhile."""
        kinds: list[str | None] = []
        while kinds.count("heartbeat") < count:
            message = await self.call.read()
            assert isinstance(message, pb.ConnectResponse)
            kinds.append(message.WhichOneof("kind"))
        return kinds


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (pb.Hello(token="wrong", window=4), grpc.StatusCode.UNAUTHENTICATED),
        (pb.Hello(window=4), grpc.StatusCode.UNAUTHENTICATED),
        (pb.Hello(token=TOKEN, window=0), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.Hello(token=TOKEN, window=10_000), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_stranger_is_sent_away_and_learns_nothing(hello: pb.Hello, code: grpc.StatusCode) -> None:
    async with served(ServedFake()) as (_, address), RawGateway(address) as gateway:
        await gateway.call.write(pb.ConnectRequest(hello=hello))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.call.read()
        assert caught.value.code() == code


async def test_a_first_message_that_is_no_hello_is_refused() -> None:
    async with served(ServedFake()) as (_, address), RawGateway(address) as gateway:
        await gateway.call.write(pb.ConnectRequest(ack=pb.Ack(sequence_number=1)))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.call.read()
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_gateway_with_a_wrong_token_never_becomes_ready() -> None:
    async with served(ServedFake()) as (_, address), linked(address, token="wrong") as link:
        for _ in range(5):
            await asyncio.sleep(0.01)
            assert not link.is_ready
        assert link.status == "the replica does not answer"


async def test_while_the_window_is_full_outputs_merge_into_the_next_message() -> None:
    replica = ServedFake()
    async with served(replica) as (_, address), RawGateway(address) as gateway:
        await gateway.call.write(pb.ConnectRequest(hello=pb.Hello(token=TOKEN, window=2)))
        for request_id in ("a", "b"):
            await gateway.call.write(pb.ConnectRequest(generate=pb.Generate(request_id=request_id, prompt_token_ids=[1], n=1)))
        await until(lambda: len(replica.submitted) == 2)
        for token_id in range(2):
            replica.emit(SequenceOutput(request_id="a", token_ids=(token_id,)))
            assert (await gateway.step()).sequence_number == token_id + 1
        for token_id in range(2, 500):
            replica.emit(SequenceOutput(request_id="a", token_ids=(token_id,)))
            replica.emit(SequenceOutput(request_id="b", token_ids=(token_id,)))
        # Life goes on while the window is full, but no further step is sent.
        assert "step" not in await gateway.heartbeats(3)
        await gateway.call.write(pb.ConnectRequest(ack=pb.Ack(sequence_number=1)))
        step = await gateway.step()
        assert step.sequence_number == 3
        assert [(s.request_id, list(s.token_ids)) for s in step.sequences] == [("a", list(range(2, 500))), ("b", list(range(2, 500)))]


async def test_what_a_stranger_may_send_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_server, "MAX_REQUEST_BYTES", 10_000)
    async with served(ServedFake()) as (_, address), RawGateway(address) as gateway:
        await gateway.call.write(pb.ConnectRequest(hello=pb.Hello(token="x" * 20_000, window=4)))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.call.read()
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED

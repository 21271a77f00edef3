"""A few thousand bent messages get an answer each; the long run is ``python -m tools.fuzz_protobuf``."""

import grpc
import pytest

from attendant.v1 import inference_service_pb2
from attendant_server.grpc_api.servicer import InferenceHandlers
from tests.server.grpc_api.fakes import FakeGateway
from tools.fuzz_protobuf import fuzz, run_one, seeds


async def test_every_rpc_has_a_seed_that_is_answered() -> None:
    assert set(seeds()) == {method.name for method in inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"].methods}
    handlers = InferenceHandlers(FakeGateway(), max_body_bytes=10_000)
    for name, data in seeds().items():
        assert await run_one(handlers, name, data) == grpc.StatusCode.OK, name


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_a_message_has_become_it_gets_a_callers_answer(seed: int) -> None:
    counts, failures = await fuzz(3000, seed)
    assert failures == []
    assert {"OK", "INVALID_ARGUMENT"} <= set(counts)


async def test_a_fault_of_ours_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(FakeGateway, "tokenize", fail)
    _, failures = await fuzz(500, 3)
    assert failures
    assert all(failure.startswith("Tokenize ") and failure.endswith("INTERNAL") for failure in failures)

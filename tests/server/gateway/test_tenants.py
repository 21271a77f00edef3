"""What a tenant is granted holds: its weight reaches engines, its tokens a minute are kept, and nobody else pays for them."""

import time
from collections.abc import Iterator

import pytest

from attendant_engine.tokenizers import Tokenizer
from attendant_server.auth import ApiKeyFileError
from attendant_server.config import TenantSettings
from attendant_server.errors import ServingError
from attendant_server.gateway.gateway import Gateway
from attendant_server.gateway.requests import CompletionRequest
from attendant_server.gateway.served_model import ServedModel
from attendant_server.gateway.tenants import Tenants
from tests.server.fakes import FakeLink, call, says


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", clock)
        yield clock


def test_over_time_a_tenant_gets_its_tokens_a_minute_and_no_more(clock: Clock) -> None:
    tenants = Tenants({"a": TenantSettings(tokens_per_minute=600)}, ("a", "b"))
    start_s, spent = clock.now_s, 0
    while clock.now_s < start_s + 600:
        try:
            tenants.check("a")
        except ServingError as error:
            assert error.code == "queue_full" and error.retry_after_s is not None
            clock.now_s += error.retry_after_s
            continue
        tenants.spend("a", 250)
        spent += 250
    assert 600 * 10 <= spent <= 600 * 11 + 250
    tenants.spend("b", 10**9)
    tenants.check("b")


def test_a_tenant_that_owes_hears_how_much_and_until_when(clock: Clock) -> None:
    tenants = Tenants({"a": TenantSettings(tokens_per_minute=60)}, ("a",))
    tenants.spend("a", 90)
    with pytest.raises(ServingError, match="used its 60 tokens a minute and 30 beyond") as caught:
        tenants.check("a")
    assert caught.value.retry_after_s == pytest.approx(30.0)
    clock.now_s += 30.1
    tenants.check("a")


def test_unused_tokens_are_kept_for_a_minute_and_not_longer(clock: Clock) -> None:
    tenants = Tenants({"a": TenantSettings(tokens_per_minute=60)}, ("a",))
    clock.now_s += 3600
    tenants.spend("a", 61)
    with pytest.raises(ServingError):
        tenants.check("a")


def test_a_grant_to_somebody_without_a_key_is_a_mistake() -> None:
    with pytest.raises(ApiKeyFileError, match="'acme', which has no key"):
        Tenants({"acme": TenantSettings(weight=2.0)}, ("a",))


async def test_a_calls_tokens_are_counted_and_its_weight_and_deadline_reach_the_engine(tokenizer: Tokenizer) -> None:
    link = FakeLink(answer=says("hello"))
    model = ServedModel("tiny", tokenizer=tokenizer, links=[link], max_queue=8)
    granted = {"a": TenantSettings(weight=3.0, tokens_per_minute=10)}
    gateway = Gateway({"tiny": model}, tenants=Tenants(granted, ("a", "b")))
    request = CompletionRequest(model="tiny", prompt="hi", max_tokens=20)
    for _ in range(2):
        await gateway.complete(request, call(tenant="a"))
    (first, *_) = link.generations
    assert (first.tenant, first.tenant_weight) == ("a", 3.0)
    assert first.deadline_s is not None and 0 < first.deadline_s - time.monotonic() <= 600
    with pytest.raises(ServingError, match="tokens a minute") as caught:
        await gateway.complete(request, call(tenant="a"))
    assert caught.value.code == "queue_full"
    await gateway.complete(request, call(tenant="b"))
    assert link.generations[-1].tenant_weight == 1.0
    gateway.close()

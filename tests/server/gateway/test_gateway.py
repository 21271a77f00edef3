"""The gateway as a whole: admission, readiness, drain, keys, tokenising, metrics and what is (not) logged."""

import asyncio
import json
import logging
import time
from pathlib import Path

import pytest

from attendant_engine.errors import CheckpointError
from attendant_engine.tokenizers import Tokenizer
from attendant_server.auth import ApiKeys
from attendant_server.errors import ServingError
from attendant_server.gateway.gateway import Gateway
from attendant_server.gateway.requests import CompletionRequest, DetokenizeRequest, EmbedRequest, TokenizeRequest
from attendant_server.gateway.served_model import ServedModel
from attendant_server.metrics import ReplicaMetrics
from tests.server.fakes import BOS_ID, EOS_ID, FakeLink, call, ids_of, says

REQUEST = CompletionRequest(model="tiny", prompt="hi")


async def test_beyond_the_bound_calls_are_refused_before_any_work_and_let_in_again(gateway: Gateway, link: FakeLink) -> None:
    streams = [await gateway.stream_complete(REQUEST, call()) for _ in range(8)]
    with pytest.raises(ServingError) as caught:
        await gateway.complete(REQUEST, call())
    assert caught.value.code == "queue_full"
    assert caught.value.retry_after_s is not None
    assert len(link.submitted) == 8
    await streams.pop().aclose()  # type: ignore[attr-defined]
    link.answer = says("x")
    assert (await gateway.complete(REQUEST, call())).choices[0].text == "x"
    assert b'attendant_requests_rejected_total{reason="queue_full"} 1.0' in gateway.render_metrics()
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]


async def test_a_deadline_that_has_passed_asks_for_no_permit(gateway: Gateway, model: ServedModel, link: FakeLink) -> None:
    for _ in range(8):
        model.admission.take()
    with pytest.raises(ServingError) as caught:
        await gateway.complete(REQUEST, call(deadline_s=time.monotonic() - 1))
    assert caught.value.code == "deadline_exceeded"
    assert (link.submitted, model.admission.num_held) == ([], 8)


async def test_a_unary_call_that_is_cancelled_or_late_aborts_its_work(gateway: Gateway, model: ServedModel, link: FakeLink) -> None:
    task = asyncio.ensure_future(gateway.complete(REQUEST, call()))
    while not link.submitted:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ServingError) as caught:
        await gateway.complete(REQUEST, call(deadline_s=time.monotonic() + 0.03))
    assert caught.value.code == "deadline_exceeded"
    assert link.aborted == [request.request_id for request in link.submitted]
    assert (model.admission.num_held, gateway.num_active) == (0, 0)


async def test_readiness_needs_every_model_and_cards_say_what_is_missing(tokenizer: Tokenizer, link: FakeLink) -> None:
    loading = FakeLink(replica_id="r1")
    loading.info = None
    gateway = Gateway({name: ServedModel(name, tokenizer=tokenizer, links=[one]) for name, one in (("tiny", link), ("late", loading))})
    assert not gateway.is_ready()
    ready_card, loading_card = gateway.list_models()
    assert (ready_card.id, ready_card.is_ready, ready_card.status, ready_card.max_model_len) == ("tiny", True, "ready", 64)
    assert (loading_card.id, loading_card.is_ready, loading_card.status) == ("late", False, "the model is still loading")
    with pytest.raises(ServingError, match="'late' has no replica ready: the model is still loading") as caught:
        await gateway.complete(CompletionRequest(model="late", prompt="x"), call())
    assert (caught.value.code, caught.value.retry_after_s) == ("not_ready", 1.0)
    loading.info = link.info
    assert gateway.is_ready()
    assert gateway.get_model("late").is_ready
    with pytest.raises(ServingError, match="did you mean 'tiny'"):
        gateway.get_model("tinny")
    gateway.close()


async def test_draining_refuses_new_calls_and_lets_the_old_ones_end(gateway: Gateway, link: FakeLink) -> None:
    stream = await gateway.stream_complete(REQUEST, call())
    gateway.start_draining()
    assert not gateway.is_ready()
    idle = asyncio.ensure_future(gateway.wait_idle())
    with pytest.raises(ServingError, match="shutting down") as caught:
        await gateway.complete(REQUEST, call())
    assert caught.value.code == "not_ready"
    assert not idle.done()
    (request,) = link.generations
    for output in says("x")(request):
        link.emit(output)
    assert "".join([getattr(item, "text", "") async for item in stream]) == "x"
    await asyncio.wait_for(idle, 5)


def test_keys_are_asked_for_where_there_are_any(gateway: Gateway, model: ServedModel) -> None:
    assert gateway.authenticate(None) == ""
    guarded = Gateway({"tiny": model}, api_keys=ApiKeys.parse("alice: alice-key-1"))
    assert guarded.authenticate("Bearer alice-key-1") == "alice"
    with pytest.raises(ServingError):
        guarded.authenticate(None)
    guarded.close()


async def test_tokenising_there_and_back(gateway: Gateway) -> None:
    result = await gateway.tokenize(TokenizeRequest(model="tiny", text="hé"), call())
    assert result.token_ids == (BOS_ID, *ids_of("hé"))
    assert result.tokens == ("<s>", "h", "Ã", "©")
    assert result.max_model_len == 64
    plain = await gateway.tokenize(TokenizeRequest(model="tiny", text="hé", add_special_tokens=False), call())
    assert plain.token_ids == ids_of("hé")
    assert await gateway.detokenize(DetokenizeRequest(model="tiny", token_ids=[*result.token_ids, EOS_ID]), call()) == "hé"
    assert await gateway.detokenize(DetokenizeRequest(model="tiny", token_ids=[]), call()) == ""
    with pytest.raises(ServingError, match="token id 9999 of 'token_ids'"):
        await gateway.detokenize(DetokenizeRequest(model="tiny", token_ids=[9999]), call())
    assert (await gateway.tokenizer_info("tiny", call()))["eos_token"] == "</s>"


async def test_metrics_join_the_gateways_own_with_those_of_live_replicas(gateway: Gateway, link: FakeLink) -> None:
    link.answer = says("hello")
    link.metrics = ReplicaMetrics(model="tiny", replica="r0").render()
    await gateway.complete(REQUEST, call(endpoint="completions"))
    with pytest.raises(ServingError):
        await gateway.embed(EmbedRequest(model="tiny", input="x"), call(endpoint="embeddings"))
    gateway.count_refusal("unknown_route", "not_found")
    text = gateway.render_metrics()
    for line in (
        b'attendant_requests_total{code="ok",endpoint="completions"} 1.0',
        b'attendant_requests_total{code="unsupported_parameter",endpoint="embeddings"} 1.0',
        b'attendant_requests_total{code="not_found",endpoint="unknown_route"} 1.0',
        b'attendant_request_duration_seconds_count{endpoint="completions"} 1.0',
        b'attendant_time_to_first_token_seconds_count{model="tiny"} 1.0',
        b'attendant_requests_running{model="tiny",replica="r0"} 0.0',
    ):
        assert line in text, line
    link.metrics = b""
    assert b'replica="r0"' not in gateway.render_metrics()


async def test_the_gateways_metrics_count_the_tasks_of_its_event_loop(gateway: Gateway) -> None:
    is_over = asyncio.Event()
    before = len(asyncio.all_tasks())
    waiting = [asyncio.ensure_future(is_over.wait()) for _ in range(3)]
    assert f"attendant_gateway_tasks {before + 3}.0".encode() in gateway.render_metrics()
    is_over.set()
    await asyncio.gather(*waiting)
    assert f"attendant_gateway_tasks {before}.0".encode() in gateway.render_metrics()


async def test_a_call_is_logged_with_its_id_and_sizes_and_without_its_text(
    gateway: Gateway, link: FakeLink, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    link.answer = says("the secret answer")
    monkeypatch.setattr(logging.getLogger("attendant_server"), "propagate", True)
    with caplog.at_level(logging.INFO, "attendant_server"):
        await gateway.complete(
            CompletionRequest(model="tiny", prompt="the secret prompt"), call(request_id="req-77", endpoint="completions")
        )
    (record,) = [record for record in caplog.records if record.getMessage() == "request"]
    fields = record.__dict__["attendant_fields"]
    assert (fields["request_id"], fields["endpoint"], fields["code"]) == ("req-77", "completions", "ok")
    assert (fields["prompt_tokens"], fields["completion_tokens"]) == (18, 16)
    assert "secret" not in json.dumps(fields)


async def test_a_fault_of_ours_shows_the_request_id_and_nothing_else(
    gateway: Gateway, link: FakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise KeyError("internals")

    monkeypatch.setattr(link, "submit", broken)
    with pytest.raises(ServingError) as caught:
        await gateway.complete(REQUEST, call(request_id="req-5"))
    assert caught.value.code == "server_error"
    assert "req-5" in caught.value.message
    assert "internals" not in caught.value.message
    assert gateway.num_active == 0


def test_a_model_without_a_tokenizer_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        ServedModel.load("none", tmp_path)

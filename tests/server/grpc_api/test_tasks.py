"""Each RPC against a scripted gateway: what it asks, and what comes back over a real socket."""

import math
from typing import Any

import pytest

from attendant.v1 import (
    chat_pb2,
    classification_pb2,
    common_pb2,
    completion_pb2,
    embedding_pb2,
    few_shot_pb2,
    models_pb2,
    tokenization_pb2,
)
from tests.server.grpc_api.fakes import FakeGateway


def _text(text: str) -> common_pb2.Prompt:
    return common_pb2.Prompt(text=text)


def _ids(*ids: int) -> common_pb2.Prompt:
    return common_pb2.Prompt(token_ids=common_pb2.TokenIds(ids=ids))


async def test_complete_sends_every_field_and_returns_the_whole_result(gateway: FakeGateway, stub: Any) -> None:
    sampling = common_pb2.SamplingParams(
        max_tokens=3,
        temperature=0.0,
        top_k=5,
        logit_bias={9: -1.5},
        stop=["x"],
        stop_token_ids=[4],
        ignore_eos=True,
        seed=-1,
        n=1,
        logprobs=2,
    )
    request = completion_pb2.CompleteRequest(
        model="tiny", prompts=[_text("a"), _text("b")], sampling=sampling, echo=True, priority=-5, cache_salt="s"
    )
    answer = await stub.Complete(request, metadata=(("x-request-id", "my-id"),))
    asked, call = gateway.calls[0]
    assert asked.prompts == ["a", "b"]
    assert (asked.max_tokens, asked.temperature, asked.top_k, asked.logit_bias) == (3, 0.0, 5, {"9": -1.5})
    assert (asked.stop_texts, asked.stop_token_ids, asked.ignore_eos, asked.seed) == (("x",), [4], True, -1)
    assert (asked.echo, asked.priority, asked.cache_salt) == (True, -5, "s")
    assert call.request_id == answer.id == "my-id"
    assert call.endpoint == "Complete"
    assert [completion.text for completion in answer.completions] == ["echo:a", "echo:b"]
    first = answer.completions[0]
    assert list(first.token_ids) == [5, 6]
    assert first.finish_reason == common_pb2.FINISH_REASON_STOP
    assert first.stop_text == "\n"
    assert not first.HasField("stop_token_id")
    assert [position.has_logprob for position in first.logprobs] == [True, False]
    assert first.logprobs[0].top[0].logprob == -0.5
    assert (answer.usage.prompt_tokens, answer.usage.cached_tokens, answer.usage.total_tokens) == (3, 1, 5)
    assert (answer.receipt.quantization, answer.receipt.kernels) == ("int8", "avx2")
    assert (answer.receipt.dtype, answer.receipt.seed, answer.timing.total_s) == ("float32", 7, 1.75)


async def test_absent_fields_take_the_defaults_of_the_canonical_request(gateway: FakeGateway, stub: Any) -> None:
    await stub.Complete(completion_pb2.CompleteRequest(model="tiny", prompts=[_ids(1, 2)]))
    asked, call = gateway.calls[0]
    assert asked.prompts == [[1, 2]]
    assert (asked.max_tokens, asked.temperature, asked.top_p, asked.n, asked.seed, asked.logprobs) == (16, 1.0, 1.0, 1, None, None)
    assert call.deadline_s is None
    assert len(call.request_id) == 32


async def test_a_stream_has_its_pieces_and_then_the_end_with_receipt_and_timing(gateway: FakeGateway, stub: Any) -> None:
    inner = completion_pb2.CompleteRequest(model="tiny", prompts=[_text("a")])
    pieces = [piece async for piece in stub.StreamComplete(completion_pb2.StreamCompleteRequest(request=inner))]
    assert [piece.delta.text for piece in pieces[:-1]] == ["piece0", "piece1"]
    assert pieces[1].delta.finish_reason == common_pb2.FINISH_REASON_LENGTH
    assert not pieces[0].HasField("receipt")
    assert not pieces[-1].HasField("delta")
    assert pieces[-1].receipt.seed == 7
    assert pieces[-1].usage.completion_tokens == 2
    assert {piece.id for piece in pieces} == {gateway.calls[0][1].request_id}


async def test_chat_and_its_stream_carry_the_turn(gateway: FakeGateway, stub: Any) -> None:
    request = chat_pb2.ChatRequest(model="tiny", messages=[chat_pb2.ChatMessage(role="user", content="hi")])
    answer = await stub.Chat(request)
    assert (answer.choices[0].message.role, answer.choices[0].message.content) == ("assistant", "re:hi")
    assert gateway.calls[0][0].max_tokens is None
    pieces = [piece async for piece in stub.StreamChat(chat_pb2.StreamChatRequest(request=request))]
    assert [piece.delta.message.content for piece in pieces[:-1]] == ["piece0", "piece1"]
    assert pieces[-1].HasField("timing")


async def test_embed_keeps_order_and_reads_pooling(gateway: FakeGateway, stub: Any) -> None:
    request = embedding_pb2.EmbedRequest(
        model="tiny", inputs=[_text("a"), _text("b")], pooling=embedding_pb2.POOLING_CLS, normalize=False, dimensions=1
    )
    answer = await stub.Embed(request)
    asked = gateway.calls[0][0]
    assert (asked.pooling, asked.normalize, asked.dimensions) == ("cls", False, 1)
    assert [list(item.values) for item in answer.embeddings] == [[0.0, 0.5], [1.0, 0.5]]


async def test_classify_takes_texts_or_pairs(gateway: FakeGateway, stub: Any) -> None:
    texts = [classification_pb2.ClassifyInput(text="a"), classification_pb2.ClassifyInput(text="b")]
    answer = await stub.Classify(classification_pb2.ClassifyRequest(model="tiny", inputs=texts))
    assert [(item.index, item.label, item.score) for item in answer.classifications] == [(0, "good", 0.75), (1, "good", 0.75)]
    assert [prob.label for prob in answer.classifications[0].probs] == ["bad", "good"]
    pairs = [classification_pb2.ClassifyInput(text="a", pair="b")]
    await stub.Classify(classification_pb2.ClassifyRequest(model="tiny", inputs=pairs, multi_label=True))
    assert gateway.calls[1][0].pairs == [["a", "b"]]
    assert gateway.calls[1][0].multi_label is True


async def test_few_shot_scores_labels_or_answers_freely(gateway: FakeGateway, stub: Any) -> None:
    examples = [few_shot_pb2.FewShotExample(input="1", output="2", reasoning="add"), few_shot_pb2.FewShotExample(input="2", output="3")]
    request = few_shot_pb2.FewShotRequest(model="tiny", examples=examples, queries=["3"], labels=["yes", "no"], calibrate=True)
    answer = (await stub.FewShot(request)).answers[0]
    assert (answer.label, answer.score) == ("yes", 0.9)
    assert [(prob.label, prob.probability) for prob in answer.probs] == [("yes", 0.9), ("no", 0.1)]
    asked = gateway.calls[0][0]
    assert [example.reasoning for example in asked.examples] == ["add", None]
    assert (asked.temperature, asked.max_tokens, asked.template, asked.calibrate) == (0.0, 32, None, True)
    free = (await stub.FewShot(few_shot_pb2.FewShotRequest(model="tiny", queries=["3"]))).answers[0]
    assert free.text == "free"
    assert not free.HasField("label")


async def test_tokenize_and_detokenize(gateway: FakeGateway, stub: Any) -> None:
    answer = await stub.Tokenize(tokenization_pb2.TokenizeRequest(model="tiny", text="ab"))
    assert (list(answer.token_ids), list(answer.tokens), answer.max_model_len) == ([1, 2], ["a", "b"], 128)
    assert gateway.calls[0][0].add_special_tokens is True
    await stub.Tokenize(tokenization_pb2.TokenizeRequest(model="tiny", text="ab", add_special_tokens=False))
    assert gateway.calls[1][0].add_special_tokens is False
    assert (await stub.Detokenize(tokenization_pb2.DetokenizeRequest(model="tiny", token_ids=[4, 5]))).text == "4,5"


async def test_models_are_listed_and_described(stub: Any) -> None:
    (model,) = (await stub.ListModels(models_pb2.ListModelsRequest())).models
    assert (model.id, model.family, model.ready, model.num_replicas) == ("tiny", "llama", True, 2)
    assert not model.HasField("embedding_size")
    described = await stub.GetModel(models_pb2.GetModelRequest(model="tiny"))
    assert described.model == model


async def test_the_request_id_comes_back_in_trailing_metadata(stub: Any) -> None:
    call = stub.ListModels(models_pb2.ListModelsRequest(), metadata=(("x-request-id", "abc"),))
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "abc"


@pytest.mark.parametrize("given", ["has space", "x" * 129, ""])
async def test_a_request_id_that_would_not_fit_a_log_line_is_replaced(gateway: FakeGateway, stub: Any, given: str) -> None:
    await stub.Detokenize(tokenization_pb2.DetokenizeRequest(model="tiny"), metadata=(("x-request-id", given),))
    assert gateway.calls[0][1].request_id not in ("", given)


async def test_both_kinds_of_deadline_reach_the_gateway_and_the_sooner_counts(gateway: FakeGateway, stub: Any) -> None:
    request = tokenization_pb2.DetokenizeRequest(model="tiny")
    await stub.Detokenize(request, timeout=50)
    await stub.Detokenize(request, timeout=50, metadata=(("x-request-timeout-s", "20"),))
    await stub.Detokenize(request, metadata=(("x-request-timeout-s", "inf"),))
    (_, first), (_, second), (_, third) = gateway.calls
    assert first.deadline_s is not None and second.deadline_s is not None
    assert 25 < first.deadline_s - second.deadline_s < 35
    assert third.deadline_s is None or math.isinf(third.deadline_s)

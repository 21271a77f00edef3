"""Embeddings and classification: one answer an input in order, cut and normalised, softmax or sigmoid."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from attendant_engine.types import EngineOutput, EngineRequest, OutputError, PooledOutput, PoolingRequest
from attendant_server.errors import ServingError
from attendant_server.gateway.gateway import Gateway
from attendant_server.gateway.pooling import MAX_IN_FLIGHT, cut, judge
from attendant_server.gateway.requests import ClassifyRequest, EmbedRequest
from tests.server.fakes import BOS_ID, SEP_ID, FakeLink, call, ids_of, model_info

ENCODER = model_info(
    kind="encoder", tasks=("embedding", "classification"), embedding_size=4, pooling="mean", normalize=True, labels=("no", "yes")
)


def _answer(request: EngineRequest) -> Iterable[EngineOutput]:
    """A vector that shows which input it is of."""
    assert isinstance(request, PoolingRequest)
    last = float(request.prompt_token_ids[-1])
    values = (last, 0.0, 3.0, 4.0) if request.task == "embedding" else (0.0, last / 100)
    yield PooledOutput(request_id=request.request_id, values=values, num_prompt_tokens=len(request.prompt_token_ids))


@pytest.fixture(autouse=True)
def _encoder(link: FakeLink) -> None:
    link.info = ENCODER
    link.answer = _answer


async def test_every_input_gets_its_vector_in_order_however_many(gateway: Gateway, link: FakeLink) -> None:
    texts = [chr(ord("a") + number % 26) for number in range(MAX_IN_FLIGHT + 50)]
    result = await gateway.embed(EmbedRequest(model="tiny", input=texts), call())
    assert [vector[0] for vector in result.vectors] == [float(ord(text)) for text in texts]
    assert result.usage.prompt_tokens == result.usage.total_tokens == 2 * len(texts)
    assert gateway.num_active == 0


async def test_pooling_and_normalising_are_the_models_own_unless_asked(gateway: Gateway, link: FakeLink) -> None:
    await gateway.embed(EmbedRequest(model="tiny", input="a"), call())
    await gateway.embed(EmbedRequest(model="tiny", input=[*ids_of("ab")], pooling="cls", normalize=False), call())
    first, second = link.poolings
    assert (first.pooling, first.normalize, first.prompt_token_ids) == (None, None, (BOS_ID, ord("a")))
    assert (second.pooling, second.normalize, second.prompt_token_ids) == ("cls", False, ids_of("ab"))


@pytest.mark.parametrize("normalize", [True, False])
def test_cut_vectors_are_brought_back_to_length_one_only_where_vectors_are_normalised(normalize: bool) -> None:
    vector = np.random.default_rng(0).standard_normal(8).astype(np.float32).tolist()
    got = np.asarray(cut(vector, 3, normalize=normalize))
    expected = np.asarray(vector[:3]) / (np.linalg.norm(vector[:3]) if normalize else 1.0)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert cut(vector, None, normalize=True) == cut(vector, 8, normalize=True) == tuple(vector)
    assert cut((0.0, 0.0, 1.0), 2, normalize=True) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("fields", "info", "code", "param", "words"),
    [
        ({"dimensions": 5}, {}, "invalid_value", "dimensions", "'dimensions' is 5; this model's vectors have 4"),
        ({}, {"pooling": None}, "invalid_value", "pooling", "set pooling to mean, cls or last"),
        ({}, {"tasks": ("completion",)}, "unsupported_parameter", "model", "does not do embedding; it does completion"),
        ({"input": "x" * 64}, {}, "context_length_exceeded", "input", "has 65 tokens; this model takes at most 64"),
        ({"input": ["a", "x" * 64]}, {}, "context_length_exceeded", "input[1]", "has 65 tokens"),
        ({"input": [[1], [300]]}, {}, "invalid_value", "input[1]", "token id 300"),
    ],
)
async def test_what_the_model_cannot_embed_is_said(
    gateway: Gateway, link: FakeLink, fields: dict[str, Any], info: dict[str, Any], code: str, param: str, words: str
) -> None:
    link.info = model_info(**{**{name: getattr(ENCODER, name) for name in ("tasks", "embedding_size", "pooling")}, **info})
    with pytest.raises(ServingError) as caught:
        await gateway.embed(EmbedRequest(**{"model": "tiny", "input": "a", **fields}), call())
    assert (caught.value.code, caught.value.param) == (code, param)
    assert words in caught.value.message


async def test_an_error_of_one_input_ends_the_request_with_it_and_aborts_the_rest(gateway: Gateway, link: FakeLink) -> None:
    def answer(request: EngineRequest) -> Iterable[EngineOutput]:
        if request.prompt_token_ids[-1] == ord("b"):
            yield PooledOutput(request_id=request.request_id, error=OutputError(code="server_error", message="non-finite values"))

    link.answer = answer
    with pytest.raises(ServingError, match="non-finite values"):
        await gateway.embed(EmbedRequest(model="tiny", input=["a", "b", "c"]), call())
    assert len(link.aborted) == 2
    assert gateway.num_active == 0


async def test_texts_are_judged_by_the_configs_labels(gateway: Gateway) -> None:
    result = await gateway.classify(ClassifyRequest(model="tiny", input=["a", "b"]), call())
    for idx, text in enumerate("ab"):
        judged = result.data[idx]
        probability = 1 / (1 + math.exp(-ord(text) / 100))
        assert (judged.index, judged.label) == (idx, "yes")
        assert dict(judged.probs) == pytest.approx({"no": 1 - probability, "yes": probability})
        assert judged.score == pytest.approx(probability)


@pytest.mark.parametrize("uses_token_types", [True, False])
async def test_pairs_are_one_input_with_segments_where_the_model_reads_them(
    gateway: Gateway, link: FakeLink, uses_token_types: bool
) -> None:
    link.info = model_info(tasks=("classification",), labels=("no", "yes"), uses_token_types=uses_token_types)
    await gateway.classify(ClassifyRequest(model="tiny", pairs=[["a", "bc"]]), call())
    (request,) = link.poolings
    assert request.prompt_token_ids == (BOS_ID, *ids_of("a"), SEP_ID, *ids_of("bc"))
    assert request.token_type_ids == ((0, 0, 0, 1, 1) if uses_token_types else None)


def test_labels_are_judged_together_by_softmax_or_each_by_sigmoid() -> None:
    logits = (1.0, -2.0, 0.5)
    single = judge(0, logits, ("a", "b", "c"), multi_label=False)
    multi = judge(0, logits, ("a", "b", "c"), multi_label=True)
    weights = [math.exp(value) for value in logits]
    assert [prob for _, prob in single.probs] == pytest.approx([weight / sum(weights) for weight in weights])
    assert [prob for _, prob in multi.probs] == pytest.approx([1 / (1 + math.exp(-value)) for value in logits])
    assert single.label == multi.label == "a"


def test_huge_logits_and_missing_labels_are_no_trouble() -> None:
    judged = judge(0, (1e30, -1e30), (), multi_label=False)
    assert judged.probs == (("LABEL_0", 1.0), ("LABEL_1", 0.0))
    assert judge(0, (1e30, -1e30), (), multi_label=True).score == 1.0

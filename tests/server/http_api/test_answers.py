import base64
import json
import struct
from typing import Any

import httpx
import jsonschema
import pytest

from attendant_server.errors import ServingError
from attendant_server.gateway import results
from tests.server.http_api.fakes import FakeGateway, position, token

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"model": "tiny", "prompt": ["a", "b"]}),
    ("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}),
    ("/v1/embeddings", {"model": "tiny", "input": ["a", "b"]}),
    ("/v1/embeddings", {"model": "tiny", "input": "a", "encoding_format": "base64"}),
    ("/v1/classify", {"model": "tiny", "pairs": [["a", "b"], ["c", "d"]]}),
    ("/v1/few-shot", {"model": "tiny", "queries": ["q", "r"], "labels": ["yes", "no"]}),
    ("/v1/few-shot", {"model": "tiny", "queries": ["q"]}),
    ("/tokenize", {"prompt": "a b", "return_token_strs": True}),
    ("/detokenize", {"tokens": [1, 2]}),
]


@pytest.mark.parametrize(("path", "body"), CALLS)
async def test_an_answer_is_as_the_openapi_document_says(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    document = (await client.get("/openapi.json")).json()
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    schema = document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(response.json(), {**schema, "components": document["components"]})
    request_schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    jsonschema.validate(body, {**request_schema, "components": document["components"]})


async def test_a_completion_has_openais_shape_with_receipt_and_timing(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/v1/completions", json={"model": "tiny", "prompt": ["a", "b"]})).json()
    assert answer["object"] == "text_completion"
    assert [(choice["index"], choice["text"], choice["token_ids"], choice["stop_reason"]) for choice in answer["choices"]] == [
        (0, "echo:a", [5, 6], "\n"),
        (1, "echo:b", [5, 6], "\n"),
    ]
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    assert answer["receipt"]["seed"] == 7
    assert answer["system_fingerprint"] == "fp_dddddddddddd_0.1.0_float32_cpu_int8_avx2"
    assert answer["timing"] == {"queue_s": 0.25, "prefill_s": 0.5, "decode_s": 1.0, "total_s": 1.75}


async def test_completion_logprobs_are_parallel_lists_whose_best_equals_a_greedy_token_exactly(
    client: httpx.AsyncClient, gateway: FakeGateway
) -> None:
    logprob = -0.12345678901234567
    positions = (
        position("Once", None),
        position("\ufffd", logprob, token(1, "\ufffd", logprob), token(2, "\ufffd", -3.0), token(3, "x", -4.0), offset=4),
        position("z", -9.5, token(1, "y", -0.1), offset=5),
    )
    gateway.choices = (
        results.CompletionChoice(index=0, text="", token_ids=(), finish_reason="length", logprobs=positions, prompt_logprobs=positions),
    )
    body = {"model": "tiny", "prompt": [[1, 2, 3]], "echo": True, "logprobs": 1, "max_tokens": 0, "temperature": 0, "prompt_logprobs": 1}
    choice = (await client.post("/v1/completions", json=body)).json()["choices"][0]
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["Once", "\ufffd", "z"]
    assert logprobs["token_logprobs"] == [None, logprob, -9.5]
    assert logprobs["top_logprobs"][0] is None
    assert max(logprobs["top_logprobs"][1].values()) == logprobs["token_logprobs"][1]
    assert logprobs["top_logprobs"][2] == {"z": -9.5, "y": -0.1}
    assert logprobs["text_offset"] == [0, 4, 5]
    assert choice["prompt_logprobs"][0] is None
    assert choice["prompt_logprobs"][1]["1"] == {"logprob": logprob, "decoded_token": "\ufffd"}
    assert set(choice["prompt_logprobs"][1]) == {"1", "2", "3"}


async def test_a_log_probability_of_minus_infinity_is_written_as_a_number(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    positions = (position("a", float("-inf"), token(1, "a", float("-inf"))),)
    gateway.choices = (results.CompletionChoice(index=0, text="a", token_ids=(1,), finish_reason="stop", logprobs=positions),)
    choice = (await client.post("/v1/completions", json={"model": "tiny", "prompt": "x", "logprobs": 1})).json()["choices"][0]
    assert choice["logprobs"]["token_logprobs"] == [-9999.0]
    assert choice["logprobs"]["top_logprobs"] == [{"a": -9999.0}]


async def test_chat_logprobs_have_bytes_and_rivals(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    positions = (position("é", -0.5, token(1, "é", -0.5), token(2, "e", -1.5)),)
    gateway.choices = (results.CompletionChoice(index=0, text="é", token_ids=(1,), finish_reason="stop", logprobs=positions),)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 2}
    answer = (await client.post("/v1/chat/completions", json=body)).json()
    assert gateway.last_request.logprobs == 2
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "é", "refusal": None}
    assert answer["choices"][0]["logprobs"]["content"] == [
        {
            "token": "é",
            "logprob": -0.5,
            "bytes": [195, 169],
            "top_logprobs": [{"token": "é", "logprob": -0.5, "bytes": [195, 169]}, {"token": "e", "logprob": -1.5, "bytes": [101]}],
        }
    ]


async def test_both_embedding_encodings_carry_the_same_float32_values(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    gateway.vectors = ((0.1, -3e-8, 1.0), (2.5, 0.0, -1e30))
    as_float32 = [struct.unpack("<3f", struct.pack("<3f", *vector)) for vector in gateway.vectors]
    gateway.vectors = tuple(as_float32)
    floats = (await client.post("/v1/embeddings", json={"model": "tiny", "input": ["a", "b"]})).json()["data"]
    packed = (await client.post("/v1/embeddings", json={"model": "tiny", "input": ["a", "b"], "encoding_format": "base64"})).json()["data"]
    assert [tuple(entry["embedding"]) for entry in floats] == as_float32
    assert [struct.unpack("<3f", base64.b64decode(entry["embedding"])) for entry in packed] == as_float32
    assert [entry["index"] for entry in floats] == [0, 1]


async def test_classification_and_few_shot_have_the_contracts_shape(client: httpx.AsyncClient) -> None:
    classified = (await client.post("/v1/classify", json={"model": "tiny", "input": ["a", "b"]})).json()
    assert classified["data"][1] == {"index": 1, "label": "good", "score": 0.75, "probs": {"bad": 0.25, "good": 0.75}}
    few = (await client.post("/v1/few-shot", json={"model": "tiny", "queries": ["q"], "labels": ["yes", "no"]})).json()
    assert few["data"][0]["probs"] == {"yes": 0.9, "no": 0.1}
    assert (few["data"][0]["label"], few["data"][0]["score"]) == ("yes", 0.9)
    assert few["usage"] == {"prompt_tokens": 3, "cached_tokens": 1, "completion_tokens": 2, "total_tokens": 5}
    free = (await client.post("/v1/few-shot", json={"model": "tiny", "queries": ["q"]})).json()
    assert free["data"] == [{"index": 0, "text": "free"}]


async def test_tokenizer_routes_have_vllms_shapes_and_need_no_model(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    tokens = (await client.post("/tokenize", json={"prompt": "a b", "add_special_tokens": False})).json()
    assert tokens == {"count": 2, "max_model_len": 128, "tokens": [1, 2]}
    assert (gateway.last_request.model, gateway.last_request.text, gateway.last_request.add_special_tokens) == ("tiny", "a b", False)
    assert (await client.post("/detokenize", json={"model": "tiny", "tokens": [3, 4]})).json() == {"prompt": "3,4"}
    assert (await client.get("/tokenizer_info")).json() == {"model": "tiny", "eos_token": "</s>", "max_model_len": 128}
    assert (await client.get("/tokenizer_info", params={"model": "nope"})).status_code == 404


async def test_a_conversation_is_tokenised_through_its_template_without_more_special_tokens(
    client: httpx.AsyncClient, gateway: FakeGateway
) -> None:
    await client.post("/tokenize", json={"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": False})
    request = gateway.last_request
    assert [(message.role, message.content) for message in request.messages] == [("user", "hi")]
    assert (request.add_special_tokens, request.add_generation_prompt) == (False, False)


async def test_models_are_openais_with_kind_tasks_context_and_adapters(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert listed["data"][0]["id"] == "tiny"
    assert (await client.get("/v1/models/tiny")).json() == listed["data"][0]
    assert {"kind": "decoder", "max_model_len": 128, "adapters": [], "object": "model"}.items() <= listed["data"][0].items()
    gateway.cards = (results.ModelCard(**{**_fields(gateway.cards[0]), "id": "org/name"}),)
    assert (await client.get("/v1/models/org/name")).json()["id"] == "org/name"


async def test_a_number_that_json_lacks_is_null(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    gateway.vectors = ((float("nan"),),)
    response = await client.post("/v1/embeddings", json={"model": "tiny", "input": "a"})
    assert json.loads(response.text, parse_constant=pytest.fail)["data"][0]["embedding"] == [None]


def _fields(card: results.ModelCard) -> dict[str, Any]:
    return {name: getattr(card, name) for name in card.__slots__}


async def test_a_bad_token_id_is_named_as_the_caller_named_it(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    gateway.error = ServingError("invalid_value", "token id 9999 of 'token_ids' is outside the vocabulary", param="token_ids")
    error = (await client.post("/detokenize", json={"tokens": [9999]})).json()["error"]
    assert error["param"] == "tokens"
    assert "'tokens'" in error["message"]

"""What a body may say: what clients really send is taken, what nobody understands is refused by name."""

import json
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, ValidationError

from attendant_server.gateway.requests import CompletionRequest
from attendant_server.http_api.bodies import ChatBody, CompletionBody, EmbedBody
from tests.server.http_api.fakes import FakeGateway

COMPLETION = {"model": "tiny", "prompt": "x"}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}

TAKEN: list[tuple[str, dict[str, Any]]] = [
    # LangChain sends what it has no value for as null.
    ("/v1/completions", {**COMPLETION, "suffix": None, "logit_bias": None, "stop": None, "seed": None, "n": 1, "best_of": 1, "user": None}),
    # lm-eval scores lists of token ids.
    ("/v1/completions", {**COMPLETION, "prompt": [[1, 2], [3]], "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0, "seed": 1}),
    ("/v1/completions", {**COMPLETION, "prompt": [1, 2], "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0.0}),
    ("/v1/completions", {**COMPLETION, "user": "someone", "logit_bias": {"5": -100}, "stop": ["a", "b"], "ignore_eos": True}),
    # lm-eval's chat messages say that they are text; the load generators send parts.
    ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": "hi", "type": "text"}]}),
    ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}], "name": None}]}),
    ("/v1/chat/completions", {**CHAT, "max_completion_tokens": 5, "logprobs": False, "response_format": {"type": "text"}, "store": False}),
    ("/v1/chat/completions", {**CHAT, "metadata": {"a": "b"}, "service_tier": "auto", "user": "someone"}),
    ("/v1/embeddings", {"model": "tiny", "input": [[1, 2], [3]], "encoding_format": "base64", "user": "someone"}),
]


@pytest.mark.parametrize(("path", "body"), TAKEN)
async def test_what_clients_send_is_taken(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text


REFUSED: list[tuple[str, dict[str, Any], str, str | None, str]] = [
    ("/v1/completions", {**COMPLETION, "suffix": "end"}, "unsupported_parameter", "suffix", "suffix"),
    ("/v1/completions", {**COMPLETION, "temprature": 0}, "unsupported_parameter", "temprature", "did you mean 'temperature'"),
    ("/v1/completions", {**COMPLETION, "stream": "yes"}, "invalid_value", "stream", "true or false"),
    ("/v1/completions", {**COMPLETION, "stream_options": {"include_usage": True}}, "invalid_value", "stream_options", "only for streams"),
    (
        "/v1/completions",
        {**COMPLETION, "stream": True, "stream_options": {"usage": 1}},
        "unsupported_parameter",
        "stream_options.usage",
        "",
    ),
    ("/v1/completions", {**COMPLETION, "logprobs": True}, "invalid_value", "logprobs", "whole number"),
    ("/v1/completions", {**COMPLETION, "logprobs": 21}, "invalid_value", "logprobs", "at most 20"),
    ("/v1/completions", {**COMPLETION, "temperature": 1e400}, "invalid_value", "temperature", "number"),
    ("/v1/completions", {**COMPLETION, "max_tokens": -1}, "invalid_value", "max_tokens", "at least 0"),
    ("/v1/completions", {**COMPLETION, "max_tokens": 10**30}, "invalid_value", "max_tokens", "at most"),
    ("/v1/completions", {**COMPLETION, "prompt": []}, "invalid_value", "prompt", "at least 1"),
    ("/v1/completions", {**COMPLETION, "prompt": [1, "a"]}, "invalid_value", "prompt[1]", "whole number"),
    ("/v1/completions", {**COMPLETION, "prompt": ["a"] * 2049}, "invalid_value", "prompt", "at most 2048"),
    ("/v1/completions", {**COMPLETION, "prompt": [*range(3000), "a"]}, "invalid_value", "prompt[3000]", "whole number"),
    ("/v1/completions", {"model": "tiny"}, "invalid_value", "prompt", "missing"),
    ("/v1/completions", {**COMPLETION, "logit_bias": {str(key): 1 for key in range(1025)}}, "invalid_value", "logit_bias", "1024"),
    ("/v1/completions", {**COMPLETION, **{f"field{key}": 1 for key in range(200)}}, "invalid_value", None, "at most 128"),
    ("/v1/chat/completions", {**CHAT, "tools": []}, "unsupported_parameter", "tools", "tools"),
    ("/v1/chat/completions", {**CHAT, "top_logprobs": 3}, "invalid_value", "top_logprobs", "needs logprobs"),
    ("/v1/chat/completions", {**CHAT, "max_tokens": 3, "max_completion_tokens": 4}, "invalid_value", "max_completion_tokens", "give one"),
    ("/v1/chat/completions", {**CHAT, "response_format": {"type": "json_object"}}, "invalid_value", "response_format.type", "text"),
    ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user"}]}, "invalid_value", "messages[0].content", "missing"),
    (
        "/v1/chat/completions",
        {**CHAT, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "unsupported_parameter",
        "messages[0].content[0].image_url",
        "image_url",
    ),
    ("/v1/embeddings", {"model": "tiny", "input": "a", "encoding_format": "hex"}, "invalid_value", "encoding_format", "base64"),
    ("/v1/classify", {"model": "tiny"}, "invalid_value", None, "exactly one"),
    ("/v1/classify", {"model": "tiny", "pairs": [["a"]]}, "invalid_value", "pairs[0]", "at least 2"),
    ("/v1/few-shot", {"model": "tiny", "queries": ["q"], "labels": ["one"]}, "invalid_value", "labels", "at least 2"),
    ("/tokenize", {"model": "tiny"}, "invalid_value", None, "exactly one"),
    ("/detokenize", {"tokens": "abc"}, "invalid_value", "tokens", "list"),
]


@pytest.mark.parametrize(("path", "body", "code", "param", "words"), REFUSED)
async def test_what_nobody_understands_is_refused_by_name(
    client: httpx.AsyncClient, gateway: FakeGateway, path: str, body: dict[str, Any], code: str, param: str | None, words: str
) -> None:
    content = json.dumps(body).replace("Infinity", "1e400")
    response = await client.post(path, content=content, headers={"content-type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"], error["type"]) == (400, code, param, "invalid_request_error")
    assert words in error["message"]
    assert not gateway.calls


BROKEN: list[tuple[bytes, str]] = [
    (b"", "empty"),
    (b"   ", "empty"),
    (b'{"model": "tiny", "prompt": "x"', "line 1 column 31"),
    (b'{"model": "tiny"\n "prompt": "x"}', "line 2"),
    (b'{"model": "tiny", "prompt": "\xff"}', "unicode"),
    (b'{"model": "tiny", "prompt": "\\ud800"}', "lone surrogate"),
    (b'{"model": "tiny", "prompt": "\\udc00x"}', "lone surrogate"),
    (b'{"model": "tiny", "prompt": "x", "temperature": NaN}', "NaN"),
    (b'{"model": "tiny", "prompt": "x", "temperature": Infinity}', "NaN and Infinity"),
    (b'{"model": "tiny", "prompt": "x", "temperature": -Infinity}', "NaN and Infinity"),
    (b'{"model": "tiny", "prompt": "x", "seed": ' + b"9" * 5000 + b"}", "out of range"),
    (b'{"model": "tiny", "prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}", "recursion limit"),
    (b'{"model": "tiny", "prompt": "a\nb"}', "control character"),
    (b"\xef\xbb\xbf{}", "byte order mark"),
    (b"[]", "JSON object"),
    (b'"text"', "JSON object"),
    (b"{} {}", "trailing"),
    ('{"model": "tiny", "prompt": "x"}'.encode("utf-16"), "not valid JSON"),
]


@pytest.mark.parametrize(("raw", "words"), BROKEN)
async def test_broken_json_is_refused_with_its_place(client: httpx.AsyncClient, gateway: FakeGateway, raw: bytes, words: str) -> None:
    response = await client.post("/v1/completions", content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_value"
    assert words in response.json()["error"]["message"]
    assert not gateway.calls
    assert (await client.post("/v1/completions", json=COMPLETION)).status_code == 200


async def test_a_nul_and_any_other_character_reach_the_gateway_unchanged(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    text = "\x00 \u2028 é 🦙 \uffff"
    response = await client.post("/v1/completions", json={**COMPLETION, "prompt": text})
    assert gateway.last_request.prompt == text
    assert response.json()["choices"][0]["text"] == f"echo:{text}"


async def test_only_json_by_name_is_taken(client: httpx.AsyncClient) -> None:
    raw = json.dumps(COMPLETION)
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        response = await client.post("/v1/completions", content=raw, headers={"content-type": content_type} if content_type else {})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "content-type"
    assert (await client.post("/v1/completions", content=raw, headers={"content-type": "Application/JSON; charset=utf-8"})).is_success


@pytest.mark.parametrize(
    ("body_type", "body"),
    [
        (CompletionBody, {"prompt": [None] * 3000}),
        (CompletionBody, {"prompt": [[None] * 50] * 50}),
        (CompletionBody, {"prompt": ["a"] * 3000}),
        (CompletionBody, {"prompt": "x", "logit_bias": {str(key): None for key in range(2000)}}),
        (CompletionBody, {"prompt": "x", "metadata": {str(key): None for key in range(2000)}}),
        (CompletionBody, {"prompt": "x", **{f"field{key}": 1 for key in range(2000)}}),
        (ChatBody, {"messages": [{}] * 3000}),
        (ChatBody, {"messages": [{"role": "user", "content": [{}] * 50}] * 50}),
        (EmbedBody, {"input": [[None] * 50] * 50}),
    ],
)
def test_thousands_of_faults_make_few_error_records(body_type: type[BaseModel], body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        body_type.model_validate({"model": "tiny", **body})
    assert caught.value.error_count() < 10


async def test_chat_parts_are_joined_and_both_names_of_max_tokens_count(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    await client.post("/v1/chat/completions", json={**CHAT, "messages": [{"role": "user", "content": parts}], "max_completion_tokens": 5})
    assert gateway.last_request.messages[0].content == "ab"
    assert gateway.last_request.max_tokens == 5
    await client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 6, "temperature": 0.5, "seed": 3, "stop": "x", "n": 2})
    request = gateway.last_request
    assert (request.max_tokens, request.temperature, request.seed, request.stop_texts, request.n) == (6, 0.5, 3, ("x",), 2)
    assert request.logprobs is None


async def test_a_completion_body_is_the_canonical_request(client: httpx.AsyncClient, gateway: FakeGateway) -> None:
    await client.post("/v1/completions", json={**COMPLETION, "top_k": 5, "min_p": 0.1, "cache_salt": "s", "priority": -3, "echo": True})
    request = gateway.last_request
    assert isinstance(request, CompletionRequest)
    assert (request.top_k, request.min_p, request.cache_salt, request.priority, request.echo) == (5, 0.1, "s", -3, True)

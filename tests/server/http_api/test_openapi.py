from typing import Any

import httpx
import jsonschema
import pytest
from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from attendant_server.http_api.openapi import BODY_TYPES
from attendant_server.status import STATUS_TABLE
from tests.server.http_api.fakes import FakeGateway

ROUTES = {
    "/v1/completions": "post",
    "/v1/chat/completions": "post",
    "/v1/embeddings": "post",
    "/v1/classify": "post",
    "/v1/few-shot": "post",
    "/tokenize": "post",
    "/detokenize": "post",
    "/tokenizer_info": "get",
    "/v1/models": "get",
    "/v1/models/{model}": "get",
    "/v1/models/load": "post",
    "/v1/models/unload": "post",
    "/health": "get",
    "/ready": "get",
    "/metrics": "get",
}


@pytest.fixture
def document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def test_the_document_has_every_route_and_no_other(document: dict[str, Any]) -> None:
    assert {path: next(iter(methods)) for path, methods in document["paths"].items()} == ROUTES


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [found for each in value.values() for found in references(each)]
        return [found for each in value for found in references(each)] if isinstance(value, list) else []

    found = set(references(document))
    assert found
    for reference in found:
        node: Any = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
        jsonschema.Draft202012Validator.check_schema(node)


def test_every_field_of_a_body_says_what_it_means(document: dict[str, Any]) -> None:
    _, definitions = models_json_schema([(body_type, "validation") for body_type in BODY_TYPES])
    for schema_name in definitions["$defs"]:
        for name, field in document["components"]["schemas"][schema_name]["properties"].items():
            assert any("description" in each for each in (field, *field.get("anyOf", ()))), f"{schema_name}.{name}"


def test_every_operation_has_a_name_of_its_own_a_summary_and_its_errors(document: dict[str, Any]) -> None:
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["summary"] for operation in operations)
    task_statuses = {"200", "400", "401", "404", "413", "429", "500", "503", "504"}
    for path, method in ROUTES.items():
        responses = document["paths"][path][method]["responses"]
        if path in ("/v1/models/load", "/v1/models/unload"):
            assert set(responses) == task_statuses - {"429"} | {"403"}
        elif method == "post":
            assert set(responses) == task_statuses
            assert "Retry-After" in responses["429"]["headers"]
        for status, response in responses.items():
            if status != "200":
                assert response["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorAnswer")
                assert int(status) in {row.http_status for row in STATUS_TABLE.values()}


def test_every_body_is_closed_and_its_example_is_valid(document: dict[str, Any]) -> None:
    for path, method in ROUTES.items():
        if method != "post":
            continue
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        body = document["components"]["schemas"][schema["$ref"].split("/")[-1]]
        assert body["additionalProperties"] is False
        assert body["examples"]
        for example in body["examples"]:
            jsonschema.validate(example, {**schema, "components": document["components"]})


async def test_every_example_is_answered(client: httpx.AsyncClient, document: dict[str, Any], gateway: FakeGateway) -> None:
    for path, method in ROUTES.items():
        if method == "post":
            name = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].split("/")[-1]
            example = document["components"]["schemas"][name]["examples"][0]
            assert (await client.post(path, json=example)).status_code == 200


async def test_a_get_answers_as_the_document_says(client: httpx.AsyncClient, document: dict[str, Any]) -> None:
    for path in ("/v1/models", "/v1/models/{model}", "/health", "/ready", "/tokenizer_info"):
        answer = (await client.get(path.replace("{model}", "tiny"))).json()
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(answer, {**schema, "components": document["components"]})


async def test_an_error_answers_as_the_document_says(client: httpx.AsyncClient, document: dict[str, Any]) -> None:
    schema = {"$ref": "#/components/schemas/ErrorAnswer", "components": document["components"]}
    for response in (await client.get("/nope"), await client.post("/v1/completions", json={}), await client.delete("/health")):
        jsonschema.validate(response.json(), schema)


async def test_no_route_of_fastapis_own_is_left(client: httpx.AsyncClient, document: dict[str, Any]) -> None:
    for path in ("/redoc", "/docs/oauth2-redirect"):
        assert (await client.get(path)).status_code == 404
    assert not {"HTTPValidationError", "ValidationError"} & set(document["components"]["schemas"])


@pytest.mark.parametrize(
    ("name", "body", "fits"),
    [
        ("ClassifyBody", {"model": "m", "input": "a"}, True),
        ("ClassifyBody", {"model": "m", "input": "a", "pairs": None}, True),
        ("ClassifyBody", {"model": "m", "input": "a", "pairs": [["a", "b"]]}, False),
        ("ClassifyBody", {"model": "m", "input": None, "pairs": None}, False),
        ("ClassifyBody", {"model": "m"}, False),
        ("TokenizeBody", {"prompt": ""}, True),
        ("TokenizeBody", {"prompt": None, "messages": [{"role": "user", "content": "a"}]}, True),
        ("TokenizeBody", {}, False),
        ("CompletionBody", {"model": "m", "prompt": "a", "stream": True, "stream_options": {}}, True),
        ("CompletionBody", {"model": "m", "prompt": "a", "stream_options": {}}, False),
        ("CompletionBody", {"model": "m", "prompt": "a", "stream_options": None}, True),
        ("CompletionBody", {"model": "m", "prompt": "a", "seed": 7.0, "max_tokens": 3.0, "temperature": 1.0}, True),
        ("CompletionBody", {"model": "m", "prompt": "a", "seed": 7.5}, False),
        ("ChatBody", {"model": "m", "messages": [{"role": "user", "content": "a"}], "top_logprobs": 1, "logprobs": True}, True),
        ("ChatBody", {"model": "m", "messages": [{"role": "user", "content": "a"}], "top_logprobs": 1}, False),
        ("DetokenizeBody", {"model": "m", "tokens": [0]}, True),
    ],
)
async def test_the_schema_and_the_server_agree_on_what_fits(
    client: httpx.AsyncClient, document: dict[str, Any], name: str, body: dict[str, Any], fits: bool
) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    assert jsonschema.Draft202012Validator(schema).is_valid(body) == fits
    (path,) = [path for path, methods in document["paths"].items() if name in str(methods.get("post", {}).get("requestBody"))]
    assert ((await client.post(path, json=body)).status_code == 400) == (not fits)

"""Every parser of ours that strangers feed answers whatever it is given with a value or with its own error, and nothing else."""

import json
import math
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from attendant_client.connection import make_connection
from attendant_server.auth import ApiKeyFileError, ApiKeys
from attendant_server.config import parse_size
from attendant_server.errors import ServingError
from attendant_server.gateway.few_shot_prompt import build_prompt
from attendant_server.gateway.requests import FewShotRequest
from attendant_server.grpc_api.call import take_request_id as take_grpc_id
from attendant_server.http_api import bodies
from attendant_server.http_api.call import call_context, take_request_id
from attendant_server.http_api.json_body import parse_json, read_body

# ATTENDANT_FUZZ_CASES=100000 for a long run.
CASES = settings(max_examples=int(os.environ.get("ATTENDANT_FUZZ_CASES", "100")), deadline=None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
BODIES = (
    bodies.CompletionBody,
    bodies.ChatBody,
    bodies.EmbedBody,
    bodies.ClassifyBody,
    bodies.FewShotBody,
    bodies.TokenizeBody,
    bodies.DetokenizeBody,
)


@CASES
@given(st.text())
def test_a_key_file_is_taken_or_refused_by_line(text: str) -> None:
    try:
        keys = ApiKeys.parse(text)
    except ApiKeyFileError as error:
        assert "API key file" in str(error)
    else:
        assert keys.required
        assert keys.tenants


@CASES
@given(st.text())
def test_an_authorization_that_is_not_a_key_is_refused(value: str) -> None:
    with pytest.raises(ServingError) as caught:
        ApiKeys.parse("a: 0123456789abcdef").authenticate(value)
    assert caught.value.code == "invalid_api_key"
    assert "0123456789abcdef" not in caught.value.message


@CASES
@given(st.text() | st.from_regex(r"\A\s*[0-9.]{0,6}\s?[KMGTkmgt]?i?[Bb]?\s*\Z"))
def test_a_size_is_bytes_or_explained(text: str) -> None:
    try:
        assert parse_size(text) >= 0
    except ValueError as error:
        assert "is not a size" in str(error)


@CASES
@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_json_is_read_as_json_reads_it_or_refused(raw: bytes) -> None:
    try:
        value = parse_json(raw)
    except ServingError as error:
        assert error.code == "invalid_value"
        assert error.message.startswith("the body is not valid JSON")
    else:
        json.dumps(value, allow_nan=False)


@pytest.mark.parametrize("body_type", BODIES)
async def test_a_body_is_read_or_refused(body_type: type[Any]) -> None:
    fields = st.sampled_from(sorted(body_type.model_fields))
    given_bodies: list[dict[str, Any]] = []

    @settings(CASES, max_examples=40)
    @given(st.dictionaries(fields | st.text(max_size=8), JSON, max_size=6), st.booleans())
    def draw(body: dict[str, Any], fits_somewhat: bool) -> None:
        example = body_type.model_config["json_schema_extra"]["examples"][0] if fits_somewhat else {}
        given_bodies.append({**example, **body})

    draw()
    for body in given_bodies:
        try:
            read = await read_body(_request(json.dumps(body).encode()), body_type)
        except ServingError as error:
            assert error.code in ("invalid_value", "unsupported_parameter")
        else:
            assert isinstance(read, body_type)


@CASES
@given(st.binary(max_size=40) | st.floats().map(lambda value: repr(value).encode()))
def test_a_timeout_header_is_a_moment_or_refused(value: bytes) -> None:
    request = Request({"type": "http", "headers": [(b"x-request-timeout-s", value)]})
    try:
        deadline_s = call_context(request, "/x").deadline_s
    except ServingError as error:
        assert error.code == "invalid_value"
    else:
        assert deadline_s is None or math.isfinite(deadline_s)


@CASES
@given(st.binary(max_size=200))
def test_a_request_id_is_taken_only_if_it_can_stand_in_a_header_and_a_log(value: bytes) -> None:
    for taken in (take_request_id(value), take_grpc_id(value.decode("latin-1"))):
        assert 1 <= len(taken) <= 128
        assert taken.isascii()
        assert taken.isprintable()
        assert " " not in taken


@CASES
@given(st.text(alphabet=st.sampled_from("{}!:.[]ainputorsg0 \n")) | st.text())
def test_a_few_shot_template_is_taken_or_refused(template: str) -> None:
    try:
        prompt = build_prompt(FewShotRequest(model="m", template=template, queries=["{input}"]))
    except ServingError as error:
        assert error.code == "invalid_value"
    else:
        assert prompt.query("{output}").count("{output}") >= 1


@CASES
@given(st.text() | st.from_regex(r"\A(grpcs?://|https?://)?[a-z\[\]:.0-9]{0,12}(:[0-9]{0,6})?/?\Z"))
def test_an_address_is_taken_or_explained(url: str) -> None:
    try:
        connection = make_connection(url)
    except ValueError as error:
        assert "is not the address of a server" in str(error)
    else:
        assert connection.address in url


def _request(raw: bytes) -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": raw, "more_body": False}

    return Request({"type": "http", "headers": [(b"content-type", b"application/json")]}, receive)

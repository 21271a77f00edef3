"""One table for both transports: every code has a row, and nothing that is not ours gets through."""

import asyncio
from typing import get_args

import grpc
import pytest

from attendant_engine import errors as engine_errors
from attendant_server.errors import ErrorCode, ServingError
from attendant_server.status import STATUS_TABLE, make_view, view_error


def test_every_code_of_the_server_and_of_the_engine_has_a_row() -> None:
    engine_codes = {
        error.code for error in vars(engine_errors).values() if isinstance(error, type) and issubclass(error, engine_errors.EngineError)
    }
    assert set(STATUS_TABLE) == set(get_args(ErrorCode))
    assert engine_codes <= set(STATUS_TABLE)


@pytest.mark.parametrize(
    ("code", "http_status", "grpc_code"),
    [
        ("invalid_value", 400, grpc.StatusCode.INVALID_ARGUMENT),
        ("unsupported_parameter", 400, grpc.StatusCode.INVALID_ARGUMENT),
        ("context_length_exceeded", 400, grpc.StatusCode.INVALID_ARGUMENT),
        ("permission_denied", 403, grpc.StatusCode.PERMISSION_DENIED),
        ("model_not_found", 404, grpc.StatusCode.NOT_FOUND),
        ("invalid_api_key", 401, grpc.StatusCode.UNAUTHENTICATED),
        ("request_too_large", 413, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("queue_full", 429, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("not_ready", 503, grpc.StatusCode.UNAVAILABLE),
        ("deadline_exceeded", 504, grpc.StatusCode.DEADLINE_EXCEEDED),
        ("server_error", 500, grpc.StatusCode.INTERNAL),
    ],
)
def test_the_table_is_the_contracts(code: str, http_status: int, grpc_code: grpc.StatusCode) -> None:
    view = make_view(code, "m")
    assert (view.http_status, grpc.StatusCode[view.grpc_code]) == (http_status, grpc_code)


@pytest.mark.parametrize("code", list(STATUS_TABLE))
def test_a_time_to_come_back_goes_with_what_may_be_retried_unless_the_error_says_otherwise(code: str) -> None:
    view = make_view(code, "m")
    assert (view.retry_after_s is not None) == view.is_retryable == (code in ("queue_full", "not_ready"))
    assert view.forbids_retry == (code == "deadline_exceeded")


def test_our_own_errors_keep_their_words() -> None:
    view = view_error(ServingError("queue_full", "the queue is full", retry_after_s=4.0))
    assert (view.code, view.message, view.retry_after_s) == ("queue_full", "The queue is full.", 4.0)
    late = view_error(ServingError("deadline_exceeded", "too much waits", retry_after_s=4.0))
    assert (late.code, late.retry_after_s, late.forbids_retry) == ("deadline_exceeded", 4.0, True)
    engine = view_error(engine_errors.ContextLengthError("too long", param="prompt"))
    assert (engine.code, engine.param, engine.http_status) == ("context_length_exceeded", "prompt", 400)
    assert [violation.param for violation in engine.violations] == ["prompt"]


@pytest.mark.parametrize("error", [ValueError("secret /etc/passwd"), KeyError("secret"), TimeoutError("secret"), MemoryError("secret")])
def test_other_errors_show_the_request_id_and_nothing_of_themselves(error: Exception) -> None:
    view = view_error(error, request_id="req-9")
    assert (view.code, view.http_status) == ("server_error", 500)
    assert "req-9" in view.message
    assert "secret" not in view.message


def test_a_code_that_nobody_knows_is_our_fault_and_keeps_its_message_to_itself() -> None:
    view = make_view("made_up", "secret")
    assert view.code == "server_error"
    assert "secret" not in view.message


def test_a_cancellation_is_no_fault_of_ours() -> None:
    assert view_error(asyncio.CancelledError()).code == "cancelled"


def test_a_message_with_a_lone_surrogate_can_be_sent() -> None:
    assert make_view("invalid_value", "no model \ud800").message.encode("utf-8") == b"No model \\ud800."

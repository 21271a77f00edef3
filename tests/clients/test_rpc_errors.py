"""Statuses that carry no code of ours: from proxies, from Ray Serve, from gRPC itself."""

from typing import Any

import grpc
import pytest

from attendant_client.errors import (
    AttendantError,
    AuthenticationError,
    ConnectionFailedError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    QueueFullError,
    ServerError,
)
from attendant_client.rpc_errors import error_from_rpc, is_worth_another_try


class _RpcError:
    def __init__(self, code: grpc.StatusCode, details: str = "", trailers: tuple[tuple[str, Any], ...] = ()) -> None:
        self._parts = (code, details, trailers)

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str:
        return self._parts[1]

    def trailing_metadata(self) -> tuple[tuple[str, Any], ...]:
        return self._parts[2]


def _read(*args: Any) -> AttendantError:
    return error_from_rpc(_RpcError(*args), address="host:1", request_id="id")


@pytest.mark.parametrize(
    ("status", "details"),
    [
        (grpc.StatusCode.UNAVAILABLE, "failed to connect"),
        (grpc.StatusCode.CANCELLED, "Stream removed (RST_STREAM error code 8)"),
        (grpc.StatusCode.INTERNAL, "The actor died unexpectedly before finishing this task."),
        (grpc.StatusCode.UNKNOWN, "Received http2 header with status: 500"),
    ],
)
def test_what_broke_on_the_way_is_worth_another_try(status: grpc.StatusCode, details: str) -> None:
    error = _read(status, details)
    assert type(error) is ConnectionFailedError
    assert "host:1" in error.message and details.rstrip(".") in error.message
    assert is_worth_another_try(error)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError),
        (grpc.StatusCode.UNAUTHENTICATED, AuthenticationError),
        (grpc.StatusCode.NOT_FOUND, NotFoundError),
        (grpc.StatusCode.UNIMPLEMENTED, NotFoundError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, QueueFullError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceededError),
        (grpc.StatusCode.UNKNOWN, ServerError),
        (grpc.StatusCode.DATA_LOSS, ServerError),
    ],
)
def test_other_statuses_keep_their_meaning_and_are_not_retried(status: grpc.StatusCode, kind: type[AttendantError]) -> None:
    error = _read(status)
    assert type(error) is kind
    assert error.message and error.request_id == "id"
    assert not is_worth_another_try(error)


def test_broken_details_do_not_hide_the_error() -> None:
    error = _read(grpc.StatusCode.NOT_FOUND, "no such thing", (("grpc-status-details-bin", b"\xff\xff"), ("x-request-id", "theirs")))
    assert type(error) is NotFoundError
    assert (error.message, error.request_id) == ("no such thing", "theirs")
